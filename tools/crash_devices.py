"""The devices of the crash judge: they remember what was acknowledged and send the rest again.

Each has a *ledger*: what it sent, how often, and what is *owed* (acknowledged, so that it may not
be lost). A message is known by its key, the same that `key_of` reads from what arrives upstream.
"""

from __future__ import annotations

import json
import random
from collections import deque
from dataclasses import dataclass

from tools.crash_mqtt import (
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    PUBREL,
    SUBACK,
    Client,
    Packet,
    Publish,
    ack,
    parse_publish,
    publish,
    subscribe,
)

Key = tuple[str, int, int]
"""Stream, boot (0 for plain devices) and number in it: the order of a stream is its keys'."""
ACK_S = 4.0
LIFE = "c0ffee00"


def key_of(topic: str, payload: bytes) -> Key | None:
    """Return the key of a message upstream; None where it is not one of the judge's."""
    if topic.startswith("tidegate/"):
        try:
            found = json.loads(payload)
            return str(found["device"]), int(found["boot"]), int(found["seq"])
        except (ValueError, KeyError, TypeError):
            return None
    words = payload.split(b" ", 2)
    try:
        return words[0].decode(), 0, int(words[1])
    except (IndexError, ValueError):
        return None


@dataclass(slots=True)
class Line:
    """The ledger of one message. sends: how often it was written to a socket. anew: how often in
    a new session, since the one before was gone without an acknowledgement of it."""

    sends: int = 0
    owed: bool = False
    anew: int = 0


class Device(Client):
    """A client with a ledger, a rate [messages/s] and the QoS its messages shall arrive with.

    exact: whether sending again may not double (contract, QoS 2).
    """

    exact = True

    def __init__(self, port: int, name: str, rng: random.Random, *, rate: float, min_qos: int,
                 clean: bool, will: Publish | None = None) -> None:
        super().__init__(port, name, rng, clean=clean, will=will)
        self.rate, self.min_qos = rate, min_qos
        self.ledger: dict[Key, Line] = {}
        self.acknowledged = 0
        self.complaints: list[str] = []
        self._credit = 0.0

    @property
    def unacknowledged(self) -> int:
        """How many messages still wait to be acknowledged."""
        return len(self.ledger) - self.acknowledged

    def tick(self, passed_s: float, now_s: float, boost: float) -> None:
        """Make the messages of passed_s [s] and send what may be sent."""
        self._credit = min(self._credit + passed_s * self.rate * boost, 200.0)
        while self._credit >= 1.0:
            self._credit -= 1.0
            self.make()
        self.pump(now_s)

    def make(self) -> None:
        """Make one message."""
        raise NotImplementedError

    def pump(self, now_s: float) -> None:
        """Send what may be sent."""
        raise NotImplementedError

    def _owe(self, key: Key) -> None:
        line = self.ledger[key]
        if not line.owed:
            line.owed = True
            self.acknowledged += 1


class Plain(Device):
    """A foreign device: QoS 1 or 2, up to `window` messages in flight, a persistent session.

    On a new connection it sends again in order what was not acknowledged: with DUP and the same
    packet identifier, and PUBREL where a PUBREC had come (section 4.4). Where its session is gone
    it begins anew (section 3.2.2.2): all of that is a new message, from identifier 1 on, and what
    got a PUBREC is the gateway's.
    """

    def __init__(self, port: int, name: str, rng: random.Random, *, topic: str, qos: int,
                 window: int, rate: float, min_qos: int) -> None:
        super().__init__(port, name, rng, rate=rate, min_qos=min_qos, clean=False)
        self.exact = qos == 2
        self._topic, self._qos, self._window = topic, qos, window
        self._ready: deque[int] = deque()
        self._flying: dict[int, bool] = {}  # number → PUBREC came
        self._number = self._base = 0  # identifiers count from the number at the session's begin

    def make(self) -> None:
        if len(self._ready) < 500:  # beyond that it is the sensor that waits
            self._number += 1
            self.ledger[self.client_id, 0, self._number] = Line()
            self._ready.append(self._number)

    def pump(self, now_s: float) -> None:
        out = bytearray()
        while self.connected and self._ready and len(self._flying) < self._window:
            number = self._ready.popleft()
            self._flying[number] = False
            out += self._packet(number, dup=False)
        if out:
            self.send(bytes(out))

    def _packet(self, number: int, *, dup: bool) -> bytes:
        self.ledger[self.client_id, 0, number].sends += 1
        payload = b"%s %d %s" % (self.client_id.encode(), number, b"x" * (number * 37 % 200))
        mid = self._mid(number)
        return publish(Publish(self._topic, payload, self._qos, False, dup, mid))

    def _mid(self, number: int) -> int:
        return (number - self._base) % 65535 + 1

    def on_connected(self, session_present: bool) -> None:
        out = bytearray()
        if not session_present:
            self._flying = {n: False for n, received in self._flying.items() if not received}
            self._base = min([*self._flying, *self._ready, self._number + 1])
            for number in self._flying:
                self.ledger[self.client_id, 0, number].anew += 1
        for number, received in self._flying.items():
            out += ack(PUBREL, self._mid(number)) if received \
                else self._packet(number, dup=session_present)
        if out:
            self.send(bytes(out))

    def on_packet(self, packet: Packet) -> None:
        if packet.kind not in (PUBACK, PUBREC, PUBCOMP):
            return
        number = self._number_of(packet.mid)
        if number is None:
            return
        if packet.kind == (PUBACK if self._qos == 1 else PUBREC):
            self._owe((self.client_id, 0, number))
        if packet.kind == PUBREC:
            self._flying[number] = True
            self.send(ack(PUBREL, packet.mid))
        else:
            del self._flying[number]

    def _number_of(self, mid: int) -> int | None:
        return next((n for n in self._flying if self._mid(n) == mid), None)


class Contract(Device):
    """A device of ours, as docs/contract.md says: batches at QoS 0, kept until `down/ack`."""

    def __init__(self, port: int, name: str, rng: random.Random, *, rate: float, batch: int,
                 min_qos: int) -> None:
        self.status_topic = f"tidegate/{name}/status"
        will = Publish(self.status_topic, b"offline", 1, True, False, 0)
        super().__init__(port, name, rng, rate=rate, min_qos=min_qos, clean=True, will=will)
        self._most = batch
        self._boots: deque[tuple[int, deque[int]]] = deque([(1, deque())])
        self._seq = 0
        self._last: tuple[int, int] | None = None  # boot and last seq of the batch in flight
        self._sent_s = 0.0
        self._listening = False
        self._uptime_ms = 0
        self.told = False  # its `online` was acknowledged, and with it what came before: the will

    def make(self) -> None:
        boot, held = self._boots[-1]
        if len(held) < 2000:
            self._seq += 1
            self._uptime_ms += 17
            held.append(self._seq)
            self.ledger[self.client_id, boot, self._seq] = Line()

    def reboot(self) -> None:
        """Lose the connection and the count; what was held is of an earlier boot now."""
        self._boots.append((self._boots[-1][0] + 1, deque()))
        self._seq = 0
        self.abort()

    def on_connected(self, session_present: bool) -> None:
        self._last, self._listening = None, False
        self.send(subscribe(1, f"tidegate/{self.client_id}/down/#", 0))
        self.send(publish(Publish(self.status_topic, b"online", 1, True, False, 1)))

    def on_packet(self, packet: Packet) -> None:
        if packet.kind == SUBACK:
            self._listening = True
        elif packet.kind == PUBACK:
            self.told = True
        elif packet.kind == PUBLISH:
            message = parse_publish(packet)
            if message.topic.endswith("/down/ack"):
                self._acknowledged(json.loads(message.payload))

    def _acknowledged(self, said: dict[str, object]) -> None:
        boot, seq = said["boot"], said["seq"]
        assert isinstance(boot, int)
        assert isinstance(seq, int)
        for held_boot, held in self._boots:
            if held_boot == boot and said["life"] == LIFE:
                if held and seq < held[0] - 1:
                    self.complaints.append(
                        f"{self.client_id} boot {boot}: acknowledged up to {held[0] - 1} before, "
                        f"up to {seq} now")
                while held and held[0] <= seq:
                    self._owe((self.client_id, boot, held.popleft()))
        if self._last == (boot, seq) or (self._last and self._last[0] == boot):
            self._last = None
        while len(self._boots) > 1 and not self._boots[0][1]:
            self._boots.popleft()

    def pump(self, now_s: float) -> None:
        if not self.connected or not self._listening:
            return
        if self._last is not None:
            if now_s - self._sent_s > ACK_S:
                self.abort()
            return
        boot, held = next(((b, h) for b, h in self._boots if h), (0, deque[int]()))
        if not held:
            return
        seqs = [held[i] for i in range(min(len(held), self._most))]
        recs = [[self._uptime_ms, "air" if s % 2 else "soil", {"n": s}] for s in seqs]
        batch = {"v": 1, "life": LIFE, "boot": boot, "seq": seqs[0], "low": seqs[0], "drop": 0,
                 "recs": recs, "now": self._uptime_ms}
        for seq in seqs:
            self.ledger[self.client_id, boot, seq].sends += 1
        self._last, self._sent_s = (boot, seqs[-1]), now_s
        self.send(publish(Publish(f"tidegate/{self.client_id}/up", json.dumps(batch).encode(), 0,
                                  False, False, 0)))
