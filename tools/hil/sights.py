"""What was seen on the wires: the witness for `why`, QoS and retain.

Sights watches between carrier and upstream, Promises between boards and gateway.

Rules (OASIS MQTT 3.1.1, sections 4.3 and 4.4):
- A *sight* is one message under one packet identifier. A PUBLISH with DUP, the same identifier
  and the same content, while that is open, continues it.
- A CONNACK with session present 0 ends all that is open.
- A message was *taken* once PUBACK or PUBREC was on its way back.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict

from tools.arrival import record_of
from tools.crash_mqtt import (
    CONNACK,
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    Decoder,
    Packet,
    parse_publish,
)
from tools.proxy_link import Direction, Link
from tools.verdict import Message, Record


class Sight:
    """One message under one packet identifier; times are monotonic [ns], 0 for never."""

    __slots__ = ("message", "qos", "retain", "taken_ns", "times_ns")

    def __init__(self, message: Message, qos: int, retain: bool, t_ns: int) -> None:
        self.message, self.qos, self.retain = message, qos, retain
        self.times_ns = [t_ns]
        self.taken_ns = 0


class _Tap:
    """A tap for tools.proxy that reads packets off each connection."""

    def __init__(self) -> None:
        self.unreadable = 0
        self._decoders: dict[tuple[Link, Direction], Decoder | None] = {}

    def tap(self, link: Link, direction: Direction, data: bytes) -> None:
        """Read bytes that are about to be passed on."""
        decoder = self._decoders.setdefault((link, direction), Decoder())
        if decoder is None:
            return
        try:
            for packet in decoder.feed(data):
                self._packet(packet, direction)
        except (ValueError, IndexError):  # a link whose bytes are flipped on purpose
            self._decoders[link, direction] = None
            self.unreadable += 1

    def forget(self, link: Link) -> None:
        """A connection has ended."""
        for direction in ("up", "down"):
            self._decoders.pop((link, direction), None)

    def _packet(self, packet: Packet, direction: Direction) -> None:
        raise NotImplementedError


class Sights(_Tap):
    """Keeps every sight, by content."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[Message, list[Sight]] = defaultdict(list)
        self._open: dict[int, Sight] = {}

    def _packet(self, packet: Packet, direction: Direction) -> None:
        if direction == "up":
            if packet.kind == PUBLISH:
                self._published(packet)
        elif packet.kind == CONNACK and not packet.body[0] & 1:
            self._open.clear()
        elif packet.kind in (PUBACK, PUBREC, PUBCOMP):
            sight = self._open.get(packet.mid)
            if sight is None:
                return
            sight.taken_ns = sight.taken_ns or time.monotonic_ns()
            if packet.kind != PUBREC:
                del self._open[packet.mid]

    def _published(self, packet: Packet) -> None:
        said, now_ns = parse_publish(packet), time.monotonic_ns()
        message = Message(said.topic, said.payload)
        before = self._open.get(said.mid)
        if said.dup and before is not None and before.message == message:
            before.times_ns.append(now_ns)
            return
        sight = Sight(message, said.qos, said.retain, now_ns)
        self.seen[message].append(sight)
        if said.qos:
            self._open[said.mid] = sight

    def why_lost(self, message: Message) -> str:
        """Say who has a lost message on its conscience."""
        found = self.seen.get(message)
        if not found:
            return "the gateway acknowledged it and never sent it"
        if any(sight.taken_ns for sight in found):
            return "the upstream acknowledged it and did not deliver it"
        return "the gateway sent it, the upstream never acknowledged it, and that was the end"

    def why_doubled(self, message: Message, sent: int) -> str:
        """Say who doubled a message that was sent so many times."""
        found = len(self.seen.get(message, ()))
        if found > sent:
            return f"the gateway sent it {found} times as new"
        return "the gateway sent it once; the upstream doubled it"

    def records(self) -> dict[Record, Message]:
        """Return the records of boards that were sent, by name."""
        found = {}
        for message in self.seen:
            name = record_of(message.payload) if "/data/" in message.topic else None
            if name is not None:
                found[name] = message
        return found


class Promises(_Tap):
    """Keeps up to which record the gateway said "I have everything", and when."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[tuple[str, str, int], list[tuple[int, int]]] = defaultdict(list)

    def _packet(self, packet: Packet, direction: Direction) -> None:
        if direction != "down" or packet.kind != PUBLISH:
            return
        said = parse_publish(packet)
        levels = said.topic.split("/")
        if len(levels) == 4 and levels[0] == "tidegate" and levels[2:] == ["down", "ack"]:
            self.heard(levels[1], said.payload, time.monotonic_ns())

    def heard(self, device: str, payload: bytes, t_ns: int) -> None:
        """Take an acknowledgement of docs/contract.md."""
        try:
            data = json.loads(payload)
            self._said[device, data["life"], data["boot"]].append((int(data["seq"]), t_ns))
        except (ValueError, KeyError, TypeError):
            self.unreadable += 1

    def acked_ns(self, record: Record) -> int:
        """Return when a record was first acknowledged, 0 for never."""
        said = self._said.get(record[:3], ())
        return min((t_ns for seq, t_ns in said if seq >= record.seq), default=0)
