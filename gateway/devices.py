"""The device contract, gateway side: what each device has sent, and when it was. Pure.

docs/contract.md has the rules. The state is one number for each (device, life, boot): the highest
seq the gateway has, and for those heard last when their uptime was zero (zeros.py). It changes in
the same transaction as the records it speaks of.
"""

from __future__ import annotations

import heapq
import re
from collections import defaultdict
from datetime import UTC, datetime
from typing import Any

import msgspec
from msgspec import Struct

from gateway.errors import ProtocolError
from gateway.zeros import MOST_MS, Key, Saved, Zeros

PREFIX = "tidegate/"
_UP = re.compile(r"tidegate/([A-Za-z0-9_-]{1,32})/up")
_SENSOR = re.compile(r"[^\x00-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff+#/]{1,64}")
_MOST = 2**53  # of seq and boot; SQLite and JSON readers keep such integers whole
BOOTS_MOST = 4096  # of a life, the newest; more than a board's ring can hold records of

STEP_MS = 1000  # of the wall clock, from which it is told

Value = float | int | bool | str | None


class Batch(Struct):
    """One `up` payload, as docs/contract.md says."""

    v: int
    life: str
    boot: int
    seq: int
    low: int
    recs: list[tuple[float, str, dict[str, Value]]]
    now: float | None = None
    t0: float | None = None
    drop: int = 0


class Taken(Struct):
    """What became of a batch.

    records: (sensor, payload) of each new record in order. seq: the highest seq now held.
    duplicates, holes, device_dropped: counts of records. forgotten: boots too old to come again.
    zeros: what has to be kept of them, None: nothing more. t0_ms: UTC of the boot's uptime zero.
    step_ms: by how much the wall clock has stepped since the batch before.
    """

    key: Key
    records: list[tuple[str, bytes]]
    seq: int
    duplicates: int = 0
    holes: int = 0
    device_dropped: int = 0
    forgotten: list[Key] = []
    zeros: dict[Key, Saved | None] = {}
    t0_ms: float | None = None
    step_ms: float = 0.0


_decoder = msgspec.json.Decoder(Batch)
_encode = msgspec.json.Encoder().encode


def device_of(topic: str) -> str | None:
    """The device whose batches come on this topic; None for any other topic."""
    found = _UP.fullmatch(topic)
    return found[1] if found else None


class Devices:
    """Highest seq by (device, life, boot).

    A board that sleeps between two readings boots a hundred thousand times a year. It sends its
    boots in order, so that an old one never comes again once newer ones did.
    """

    def __init__(self, seen: dict[Key, int], zeros: dict[Key, Saved] | None = None) -> None:
        self._seen = seen
        self.zeros = Zeros(zeros or {})
        self._boots: defaultdict[tuple[str, str], list[int]] = defaultdict(list)  # heaps
        for device, life, boot in sorted(seen):
            self._boots[device, life].append(boot)

    def take(self, device: str, payload: bytes, utc_ms: int | None,
             mono_ms: float | None = None, *, is_set: bool = False) -> Taken:
        """Judge a batch and remember it.

        utc_ms: the gateway's wall clock now, None where it is not to be trusted. mono_ms: its
        monotonic clock, the same where a test has only one. is_set: see Zeros.clock.
        Raises ProtocolError where the payload is no batch.
        """
        try:
            batch = _decoder.decode(payload)
        except (msgspec.DecodeError, ValueError, RecursionError) as error:  # nested too deep
            raise ProtocolError("unreadable batch", str(error)) from error
        if batch.v != 1 or not batch.recs or min(batch.seq, batch.low, batch.boot) < 1 \
                or max(batch.seq, batch.boot) > _MOST or batch.low > batch.seq \
                or not 1 <= len(batch.life) <= 16:
            raise ProtocolError("unreadable batch", "v, seq, low, boot, life or recs out of range")
        for _, sensor, _ in batch.recs:
            if not _SENSOR.fullmatch(sensor):
                raise ProtocolError("unreadable batch", f"sensor name {sensor[:80]!r}")
        key = (device, batch.life, batch.boot)
        have = self._seen.get(key, 0)
        taken = Taken(key, [], have)
        if batch.low > have + 1:  # dropped on the device, for good
            taken.device_dropped = batch.low - have - 1
            taken.seq = have = batch.low - 1
        taken.step_ms = self.zeros.clock((utc_ms or 0) if mono_ms is None else mono_ms, utc_ms,
                                         is_set=is_set)
        if abs(taken.step_ms) >= STEP_MS:
            taken.zeros = dict(self.zeros.all_saved())
        if batch.now is not None and 0 <= batch.now <= MOST_MS:
            taken.zeros |= dict.fromkeys(self.zeros.heard(key, batch.now))
            taken.t0_ms = self.zeros.utc_ms(key)
        last = batch.seq + len(batch.recs) - 1
        if batch.seq > have + 1:
            taken.holes = len(batch.recs)
        elif last <= have:
            taken.duplicates = len(batch.recs)
        else:
            taken.duplicates = have + 1 - batch.seq
            for index in range(taken.duplicates, len(batch.recs)):
                uptime_ms, sensor, values = batch.recs[index]
                taken.records.append((sensor, _encode({
                    "device": device, "life": batch.life, "boot": batch.boot,
                    "seq": batch.seq + index,
                    "time": _time(self.zeros.time_ms(key, uptime_ms, batch.t0)),
                    "sensor": sensor, "values": values})))
            taken.seq = last
        if taken.seq:
            if key not in self._seen:
                taken.forgotten = self._note(key)
            self._seen[key] = taken.seq
        saved = self.zeros.saved(key)
        if saved is not None:
            taken.zeros[key] = saved
        return taken

    def _note(self, key: Key) -> list[Key]:
        """A boot that is new here; return those that are forgotten for it, two at most."""
        device, life, boot = key
        boots = self._boots[device, life]
        forgotten: list[Key] = []
        while len(boots) >= BOOTS_MOST and boots[0] < boot and len(forgotten) < 2:
            forgotten.append((device, life, heapq.heappop(boots)))
            del self._seen[forgotten[-1]]
        heapq.heappush(boots, boot)
        return forgotten


def ack_payload(taken: Taken, utc_ms: int | None) -> bytes:
    """The payload of `down/ack` for what was taken."""
    _, life, boot = taken.key
    ack: dict[str, Any] = {"v": 1, "life": life, "boot": boot, "seq": taken.seq, "utc_ms": utc_ms}
    if taken.t0_ms is not None:
        ack["t0"] = round(taken.t0_ms)
    return _encode(ack)


def _time(ms: float | None) -> str | None:
    if ms is None:
        return None
    moment = datetime.fromtimestamp(ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
