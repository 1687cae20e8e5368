"""What passed between gateway and upstream, read off the wire by the fault proxy.

Rules (OASIS MQTT 3.1.1, sections 4.3 and 4.4; MQTT 5.0 likewise):
- An *exchange* is one message under one packet identifier: from its first PUBLISH to its PUBACK
  or PUBCOMP. A PUBLISH with DUP, the same identifier and the same message continues it, and so
  does a PUBREL after its PUBCOMP, which the gateway then never got.
- A message was *taken* by the upstream once its PUBACK or PUBREC was on its way to the gateway.
  PUBREC 0x91 says the same of one that was sent before; of a new one it is a refusal.
- It was *released* once its PUBREL was on its way to the upstream.
- A CONNACK with session present 0 ends all exchanges that are open: the upstream has *lost* its
  side of them. It loses those too whose last acknowledgement passed shortly before the connection
  ended: whether the gateway had read it and had it on disk, nobody can know.
- A PUBACK or PUBREC of 0x80 and above ends an exchange as *refused*.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

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


DISK_S = 2.0
"""How long [s] the gateway takes at most to have on disk what it read, slow disks included."""
IN_USE = 0x91


@dataclass(slots=True)
class Exchange:
    """One message under one packet identifier. Times are monotonic [s], 0 for never.

    lost_s: when the upstream said that it had lost the session. refused: the reason. again_s: when
    anything of it passed that had passed before.
    """

    key: Key
    mid: int
    qos: int
    first_s: float
    taken_s: float = 0.0
    released_s: float = 0.0
    ended_s: float = 0.0
    lost_s: float = 0.0
    refused: int = 0
    again_s: list[float] = field(default_factory=list)

    def heard(self, from_s: float, to_s: float) -> bool:
        """Whether anything of it passed between two times [s]."""
        times_s = (self.first_s, self.taken_s, self.released_s, self.ended_s, *self.again_s)
        return any(from_s <= t_s <= to_s for t_s in times_s if t_s)


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
        self.refusals: Counter[int] = Counter()
        self._on_kind, self._v5 = on_kind, v5
        self._open: dict[int, Exchange] = {}
        self._last: dict[int, Exchange] = {}  # by packet identifier, also when it has ended
        self._ended: dict[Link, deque[Exchange]] = defaultdict(deque)  # within DISK_S
        # Ended shortly before their connection did; the gateway may have been killed before it
        # noted that, and so again on a resumed connection that was cut before anything new went.
        self._unsure: list[Exchange] = []
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
                self._from_upstream(packet, link)
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
            exchange = self._last.get(packet.mid)
            if exchange is None or exchange.refused or exchange.lost_s:
                return
            if exchange.ended_s:  # its PUBCOMP never got there
                exchange.ended_s = 0.0
                self._open[packet.mid] = exchange
            if exchange.released_s:
                exchange.again_s.append(now_s)
            else:
                exchange.released_s = now_s

    def _published(self, key: Key, message: Publish, now_s: float) -> None:
        known = self.exchanges[key]
        if not known:
            self.order[key[0]].append(key)
            self._unsure.clear()  # what it owes goes first: the gateway has noted those ends
        last = self._last.get(message.mid) if message.qos else None
        if last is not None and last.key == key and message.dup and not last.refused and not (
                last.lost_s or (last.ended_s and message.qos == 2)):
            last.again_s.append(now_s)
            last.ended_s = 0.0  # at QoS 1 its PUBACK never got there
            self._open[message.mid] = last
            return
        old = self._open.get(message.mid)
        if old is not None and old.key == key:
            if old.taken_s and message.qos == 2:
                self._complain(f"{key}: published anew after its PUBREC, in the same session")
        elif old is not None and old.qos == 2:
            self._complain(f"packet identifier {message.mid} of {old.key} used for {key} "
                           "before its PUBCOMP")
        exchange = Exchange(key, message.mid, message.qos, now_s)
        known.append(exchange)
        if message.qos:
            self._open[message.mid] = self._last[message.mid] = exchange

    def _from_upstream(self, packet: Packet, link: Link) -> None:
        now_s = time.monotonic()
        if packet.kind == CONNACK:
            if packet.body[1] == 0:
                self._connected(bool(packet.body[0] & 1), now_s)
            return
        if packet.kind not in (PUBACK, PUBREC, PUBCOMP):
            return
        exchange = self._open.get(packet.mid)
        reason = packet.body[2] if len(packet.body) > 2 else 0
        has_it = reason == IN_USE and exchange is not None and bool(exchange.again_s)
        if reason >= 0x80 and packet.kind != PUBCOMP and not has_it:
            self.refusals[reason] += 1
            self._said.pop(packet.mid, None)
            if exchange is not None:
                exchange.refused = reason
                del self._open[packet.mid]
            return
        if packet.kind in (PUBACK, PUBREC):
            said = self._said.pop(packet.mid, None)
            if said is not None:
                self.status[said.topic] = said.payload
        if exchange is None:
            return
        if packet.kind != PUBCOMP:
            if exchange.taken_s:
                exchange.again_s.append(now_s)
            else:
                exchange.taken_s = now_s
        if packet.kind == PUBCOMP or (packet.kind == PUBACK and exchange.qos == 1):
            exchange.ended_s = now_s
            del self._open[packet.mid]
            ended = self._ended[link]
            ended.append(exchange)
            while ended and ended[0].ended_s < now_s - DISK_S:
                ended.popleft()

    def _connected(self, session_present: bool, now_s: float) -> None:
        if not session_present:
            for exchange in [*self._open.values(), *self._unsure]:
                exchange.lost_s = now_s
            self._open.clear()
            self._said.clear()
            self._unsure.clear()

    def forget(self, link: Link) -> None:
        """A connection has ended."""
        for direction in DIRECTIONS:
            self._decoders.pop((link, direction), None)
        self._doubt(self._ended.pop(link, ()))

    def gateway_dies(self) -> None:
        """It is killed now; that its connection has ended may come out seconds later."""
        for ended in self._ended.values():
            self._doubt(ended)
            ended.clear()

    def _doubt(self, ended: Iterable[Exchange]) -> None:
        """Of what has just ended the gateway may know nothing when it starts again."""
        now_s = time.monotonic()
        self._unsure += [exchange for exchange in ended if exchange.ended_s >= now_s - DISK_S]

    def _complain(self, text: str) -> None:
        self.complaints.append(text)

    @property
    def busy(self) -> int:
        """How many exchanges are not finished."""
        return len(self._open)
