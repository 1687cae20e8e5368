"""What passed between gateway and upstream, read off the wire by the fault proxy.

Rules (OASIS MQTT 3.1.1, sections 4.3 and 4.4):
- An *exchange* is one message under one packet identifier: from its first PUBLISH to its PUBACK
  or PUBCOMP. A PUBLISH with DUP, the same identifier and the same message continues it.
- A CONNACK with session present 0 ends all exchanges that are open.
- A message was *taken* by the upstream once its PUBACK or PUBREC was on its way to the gateway.
- It was *released* once its PUBREL was on its way to the upstream, which hands it out then.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass

from tools.crash_devices import Key, key_of
from tools.crash_mqtt import (
    CONNACK,
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    PUBREL,
    Decoder,
    Packet,
    Publish,
    parse_publish,
)
from tools.proxy_link import DIRECTIONS, Direction, Link

NAMES = {PUBLISH: "PUBLISH", PUBACK: "PUBACK", PUBREC: "PUBREC", PUBREL: "PUBREL",
         PUBCOMP: "PUBCOMP"}


@dataclass(slots=True)
class Exchange:
    """One message under one packet identifier. Times are monotonic [s], 0 for never."""

    key: Key
    mid: int
    qos: int
    first_s: float
    taken_s: float = 0.0
    released_s: float = 0.0
    ended_s: float = 0.0

    @property
    def last_s(self) -> float:
        """When it was last heard of."""
        return max(self.first_s, self.taken_s, self.released_s, self.ended_s)


class WireLog:
    """A tap for tools.proxy: keeps every exchange of the judge's messages.

    on_kind: called with the name of each packet's type before the packet is passed on.
    v5: the gateway speaks MQTT 5.
    """

    def __init__(self, on_kind: Callable[[str], None], *, v5: bool = False) -> None:
        self.exchanges: dict[Key, list[Exchange]] = defaultdict(list)
        self.order: dict[str, list[Key]] = defaultdict(list)  # first PUBLISHes by stream
        self.counts: Counter[str] = Counter()
        self.status: dict[str, bytes] = {}  # topic → last retained payload taken
        self.complaints: list[str] = []
        self._on_kind, self._v5 = on_kind, v5
        self._open: dict[int, Exchange] = {}
        self._said: dict[int, Publish] = {}  # retained messages under way
        self._decoders: dict[tuple[Link, Direction], Decoder] = {}

    def tap(self, link: Link, direction: Direction, data: bytes) -> None:
        """Read bytes that are about to be passed on."""
        decoder = self._decoders.setdefault((link, direction), Decoder())
        for packet in decoder.feed(data):
            name = NAMES.get(packet.kind)
            if direction == "up":
                self._from_gateway(packet)
            else:
                self._from_upstream(packet)
            if name is not None:
                self.counts[name] += 1
                self._on_kind(name)

    def _from_gateway(self, packet: Packet) -> None:
        now_s = time.monotonic()
        if packet.kind == PUBLISH:
            message = parse_publish(packet, v5=self._v5)
            if message.retain:
                self._said[message.mid] = message
            key = key_of(message.topic, message.payload)
            if key is not None:
                self._published(key, message, now_s)
        elif packet.kind == PUBREL:
            exchange = self._open.get(packet.mid)
            if exchange is not None and not exchange.released_s:
                exchange.released_s = now_s

    def _published(self, key: Key, message: Publish, now_s: float) -> None:
        known = self.exchanges[key]
        if not known:
            self.order[key[0]].append(key)
        old = self._open.get(message.mid)
        if old is not None and old.key == key:
            if message.dup:
                return
            if old.taken_s and message.qos == 2:
                self._complain(f"{key}: published anew after its PUBREC, in the same session")
        elif old is not None and old.qos == 2 and not old.ended_s:
            self._complain(f"packet identifier {message.mid} of {old.key} used for {key} "
                           "before its PUBCOMP")
        exchange = Exchange(key, message.mid, message.qos, now_s)
        known.append(exchange)
        if message.qos:
            self._open[message.mid] = exchange

    def _from_upstream(self, packet: Packet) -> None:
        now_s = time.monotonic()
        if packet.kind == CONNACK:
            if packet.body[1] == 0 and not packet.body[0] & 1:
                self._open.clear()
                self._said.clear()
            return
        if packet.kind not in (PUBACK, PUBREC, PUBCOMP):
            return
        if len(packet.body) > 2 and packet.body[2] >= 0x80:  # MQTT 5: refused
            self._complain(f"the upstream refuses {packet.mid}: reason {packet.body[2]:#x}")
            return
        if packet.kind in (PUBACK, PUBREC):
            said = self._said.pop(packet.mid, None)
            if said is not None:
                self.status[said.topic] = said.payload
        exchange = self._open.get(packet.mid)
        if exchange is None:
            return
        if packet.kind != PUBCOMP and not exchange.taken_s:
            exchange.taken_s = now_s
        if packet.kind == PUBCOMP or (packet.kind == PUBACK and exchange.qos == 1):
            exchange.ended_s = now_s
            del self._open[packet.mid]

    def forget(self, link: Link) -> None:
        """A connection has ended."""
        for direction in DIRECTIONS:
            self._decoders.pop((link, direction), None)

    def _complain(self, text: str) -> None:
        if len(self.complaints) < 20:
            self.complaints.append(text)

    @property
    def busy(self) -> int:
        """How many exchanges are not finished."""
        return len(self._open)
