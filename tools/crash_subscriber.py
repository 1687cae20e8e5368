"""The subscriber of the crash judge: a persistent QoS 2 session at the upstream, never killed."""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass

from tools.crash_devices import Key, key_of
from tools.crash_mqtt import (
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    PUBREL,
    SUBACK,
    Client,
    Packet,
    ack,
    parse_publish,
    subscribe,
)


@dataclass(slots=True)
class Arrival:
    """One message as it came. Times are monotonic [s]; done_s: when the upstream knew that it had
    come (its PUBREL), 0 for never."""

    key: Key
    qos: int
    t_s: float
    done_s: float = 0.0


@dataclass(slots=True)
class Outage:
    """The upstream was killed. Times are monotonic [s].

    back_s: when it had a session for the subscriber again. saved_s: what it did before that, it
    kept; minus infinity for one that keeps nothing.
    """

    killed_s: float
    back_s: float
    saved_s: float


class Subscriber(Client):
    """Keeps every arrival of the judge's messages, in order.

    A message counts when its PUBLISH comes (method B of section 4.3.3): one with DUP, the packet
    identifier and the bytes of one that waits for its PUBREL is the same.
    """

    def __init__(self, port: int, rng: random.Random) -> None:
        super().__init__(port, "crash-judge", rng, clean=False)
        self.arrivals: list[Arrival] = []
        self.arrived: set[Key] = set()
        self.strangers: list[str] = []
        self.subscribed = False
        self.outages: list[Outage] = []
        self._half: dict[int, tuple[bytes, Arrival | None]] = {}
        self._killed_s = 0.0
        self._saved_s = math.inf

    def upstream_killed(self) -> None:
        """From now until the next SUBACK or resumed session nothing is promised to us, and of
        what was before only what `upstream_saved` says."""
        if not self._killed_s:
            self._killed_s, self._saved_s = time.monotonic(), math.inf

    def upstream_saved(self, saved_s: float) -> None:
        """When the upstream that was killed had saved last [s]; minus infinity for never."""
        self._saved_s = min(self._saved_s, saved_s)

    def on_connected(self, session_present: bool) -> None:
        if session_present:
            self._sees()
        else:
            self._half.clear()
            self.send(subscribe(1, "#", 2))

    def _sees(self) -> None:
        self.subscribed = True
        if self._killed_s:
            saved_s = self._saved_s if self._saved_s < math.inf else -math.inf
            self.outages.append(Outage(self._killed_s, time.monotonic(), saved_s))
            self._killed_s = 0.0

    def on_lost(self) -> None:
        self.subscribed = False

    def on_packet(self, packet: Packet) -> None:
        if packet.kind == SUBACK:
            self._sees()
        elif packet.kind == PUBREL:
            _, arrival = self._half.pop(packet.mid, (b"", None))
            if arrival is not None:
                arrival.done_s = time.monotonic()
            self.send(ack(PUBCOMP, packet.mid))
        elif packet.kind == PUBLISH:
            self._take(packet)

    def _take(self, packet: Packet) -> None:
        message = parse_publish(packet)
        if message.qos:
            self.send(ack(PUBREC if message.qos == 2 else PUBACK, message.mid))
        if message.qos == 2 and message.dup and message.mid in self._half and (
                self._half[message.mid][0] == packet.body):
            return
        key, arrival = key_of(message.topic, message.payload), None
        if key is not None:
            arrival = Arrival(key, message.qos, time.monotonic())
            self.arrivals.append(arrival)
            self.arrived.add(key)
        elif not message.topic.endswith("/status"):
            self.strangers.append(f"{message.topic} {message.payload[:60]!r}")
        if message.qos == 2:
            self._half[message.mid] = packet.body, arrival
