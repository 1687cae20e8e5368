"""The device contract, gateway side: what each device has sent, and when it was. Pure.

docs/contract.md has the rules. The state is one number for each (device, life, boot): the highest
seq the gateway has. It changes in the same transaction as the records it speaks of.
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

PREFIX = "tidegate/"
_UP = re.compile(r"tidegate/([A-Za-z0-9_-]{1,32})/up")
_SENSOR = re.compile(r"[^\x00-\x1f\x7f-\x9f\ufdd0-\ufdef\ufffe\uffff+#/]{1,64}")
_MOST = 2**53  # of seq and boot; SQLite and JSON readers keep such integers whole
BOOTS_MOST = 4096  # of a life, the newest; more than a board's ring can hold records of
_MAX_MS = 253_402_300_799_999  # the year 9999; datetime ends there

Value = float | int | bool | str | None
Key = tuple[str, str, int]  # device, life, boot


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
    """

    key: Key
    records: list[tuple[str, bytes]]
    seq: int
    duplicates: int = 0
    holes: int = 0
    device_dropped: int = 0
    forgotten: list[Key] = []


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

    def __init__(self, seen: dict[Key, int]) -> None:
        self._seen = seen
        self._boots: defaultdict[tuple[str, str], list[int]] = defaultdict(list)  # heaps
        for device, life, boot in sorted(seen):
            self._boots[device, life].append(boot)

    def take(self, device: str, payload: bytes, utc_ms: int | None) -> Taken:
        """Judge a batch and remember it.

        utc_ms: the gateway's wall clock now, None where it is not to be trusted.
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
        last = batch.seq + len(batch.recs) - 1
        if batch.seq > have + 1:
            taken.holes = len(batch.recs)
        elif last <= have:
            taken.duplicates = len(batch.recs)
        else:
            taken.duplicates = have + 1 - batch.seq
            zero_ms = _zero(batch, utc_ms)
            for index in range(taken.duplicates, len(batch.recs)):
                uptime_ms, sensor, values = batch.recs[index]
                taken.records.append((sensor, _encode({
                    "device": device, "life": batch.life, "boot": batch.boot,
                    "seq": batch.seq + index, "time": _time(zero_ms, uptime_ms),
                    "sensor": sensor, "values": values})))
            taken.seq = last
        if taken.seq:
            if key not in self._seen:
                taken.forgotten = self._note(key)
            self._seen[key] = taken.seq
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
    return _encode(ack)


def _zero(batch: Batch, utc_ms: int | None) -> float | None:
    """UTC of the boot's uptime zero [ms], None where it cannot be known."""
    if batch.now is not None and utc_ms is not None:
        return utc_ms - batch.now
    return batch.t0


def _time(zero_ms: float | None, uptime_ms: float) -> str | None:
    if zero_ms is None or not 0 <= zero_ms + uptime_ms <= _MAX_MS:
        return None
    moment = datetime.fromtimestamp((zero_ms + uptime_ms) / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
