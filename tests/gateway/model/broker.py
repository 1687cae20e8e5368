"""The broker: the receiver's side of QoS 1 and 2, on its own reading of MQTT, and the way there.

Method A of section 4.3.3: a message is delivered with its PUBLISH, and its packet identifier is
kept until PUBREL; or method B, it is kept whole and delivered with the PUBREL.
"""

from __future__ import annotations

import random
import time
from collections import Counter, deque
from collections.abc import Callable

from gateway import wire
from gateway.wire import Ack, Packet, Publish
from model.rules import Options, hold

NOT_AUTHORIZED, IN_USE, NOT_FOUND = 0x87, 0x91, 0x92
PASSING = [0x80, 0x83, 0x89, 0x97]
OURS, CONTRACT = "tidegate/gateway/", "tidegate/a/"


class Broker:
    """delivered: (session, message) as they came; refused: payloads of devices that got a
    reason code."""

    def __init__(self, rng: random.Random, options: Options, reached: Counter[str]) -> None:
        self._rng, self._reached = rng, reached
        self.refuses, self._forgets = options.refuse, options.forget
        self.passing, self._late, self._says = options.passing, options.late, options.says
        self._windows = [1, 2] if options.narrow else [1, 2, 5, 10, 10]
        self.delivered: list[tuple[int, Publish]] = []
        self.refused: set[bytes] = set()
        self.put_off: set[bytes] = set()  # got a code that passes: others overtake them
        self.window = 10
        self.session = 0
        self._held: dict[int, Publish] = {}  # QoS 2 between PUBLISH and PUBREL, by identifier
        self._open: set[int] = set()  # identifiers that await our answer on this connection
        self._received: set[int] = set()  # those that got a PUBREC on this connection

    def connect(self) -> bool:
        """Begin a connection; return whether the session is still there."""
        present = self.session > 0 and not (self._forgets and self._rng.random() < 0.3)
        if not present:
            self.session += 1
            self._held.clear()
        self.window = self._rng.choice(self._windows)
        self._open.clear()
        self._received.clear()
        return present

    def take(self, packet: Packet) -> bytes:
        """One packet from the gateway; return the answer."""
        if isinstance(packet, Publish):
            return self._publish(packet)
        assert isinstance(packet, Ack)
        assert packet.kind == wire.PUBREL
        if packet.mid not in self._received:
            self._reached["PUBRELs after a reconnect"] += 1
        held = self._held.pop(packet.mid, None)
        if held is None and self._says:
            return _coded(wire.PUBCOMP, packet.mid, NOT_FOUND)
        if held is not None and self._late:
            self.delivered.append((self.session, held))
        return wire.encode_ack(wire.PUBCOMP, packet.mid)

    def answered(self, ack: Ack) -> None:
        """The gateway has read an answer: it may use the identifier, and its place, again."""
        if ack.kind != wire.PUBREC or ack.reason >= 0x80:
            self._open.discard(ack.mid)

    def _publish(self, p: Publish) -> bytes:
        if p.qos == 0:
            self.delivered.append((self.session, p))
            return b""
        hold(p.mid not in self._open, f"packet identifier twice in flight: {p}")
        self._open.add(p.mid)
        hold(len(self._open) <= self.window, f"over Receive Maximum {self.window}: {p}")
        held = self._held.get(p.mid)
        if self.passing and self._rng.random() < 0.15:
            self._reached["passing refusals"] += 1
            self.put_off.add(p.payload)
            kind = wire.PUBACK if p.qos == 1 else wire.PUBREC
            return _coded(kind, p.mid, self._rng.choice(PASSING))
        if p.qos == 1:
            hold(held is None, f"packet identifier used before its QoS 2 ended: {p} over {held!r}")
            if self.refuses and not p.topic.startswith(OURS) and self._rng.random() < 0.1:
                if not p.topic.startswith(CONTRACT):
                    self.refused.add(p.payload)
                return _coded(wire.PUBACK, p.mid, NOT_AUTHORIZED)
            self.delivered.append((self.session, p))
            return wire.encode_ack(wire.PUBACK, p.mid)
        self._received.add(p.mid)
        if held is None:
            if not self._late:
                self.delivered.append((self.session, p))
            self._held[p.mid] = p
        else:
            hold(p.dup, f"packet identifier used before its end: {p} over {held!r}")
            hold(held.payload == p.payload, f"another under an identifier: {p} over {held!r}")
            if self._says:
                self._reached["0x91"] += 1
                return _coded(wire.PUBREC, p.mid, IN_USE)
        return wire.encode_ack(wire.PUBREC, p.mid)


def _coded(kind: int, mid: int, reason: int) -> bytes:
    return bytes([kind << 4, 3, *mid.to_bytes(2, "big"), reason])


class Link:
    """The connection to the broker, both ways; stands where the gateway has its `Upstream`."""

    def __init__(self, broker: Broker, most: int, log: Callable[[str], None]) -> None:
        self.connected = False
        self._broker, self._most, self._log = broker, most, log
        self._there: deque[tuple[float, bytes]] = deque()  # with the time it was written
        self._left = (0.0, 0.0)  # of the newest that arrived: when written, and when it arrived
        self._back: deque[Ack] = deque()

    def writable(self) -> bool:
        return self.connected and len(self._there) < self._most

    def write(self, parts: list[bytes]) -> None:
        if self.connected:
            now_s = time.monotonic()
            self._there.extend((now_s, part) for part in parts)

    def left_s(self, written_s: float) -> float | None:
        return self._left[1] if self._left[0] >= written_s else None

    def carry(self, count: int) -> None:
        """Bring packets to the broker, at most `count` of the gateway's writes."""
        for _ in range(min(count, len(self._there))):
            written_s, data = self._there.popleft()
            if not self._there or self._there[0][0] > written_s:
                self._left = written_s, time.monotonic()
            packets, used = wire.decode(data, v5=True)
            hold(used == len(data), f"half a packet: {data!r}")
            for packet in packets:
                self._log(f"broker gets {packet}")
                answer = self._broker.take(packet)
                acks, _ = wire.decode(answer, v5=True)
                self._back.extend(ack for ack in acks if isinstance(ack, Ack))

    def answers(self, count: int) -> list[Ack]:
        """What the gateway reads now."""
        acks = [self._back.popleft() for _ in range(min(count, len(self._back)))]
        for ack in acks:
            self._broker.answered(ack)
        return acks

    def idle(self) -> bool:
        return not self._there and not self._back

    def cut(self, arriving: int) -> None:
        """The connection is gone; of what is under way some still arrives, its answers do not."""
        self.carry(arriving)
        self.connected = False
        self._there.clear()
        self._back.clear()

    def on_the_way(self) -> int:
        return len(self._there)
