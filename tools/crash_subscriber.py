"""The subscriber of the crash judge: a persistent QoS 2 session at the upstream, never killed."""

from __future__ import annotations

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


@dataclass(frozen=True, slots=True)
class Arrival:
    """One message as it came; t_s is monotonic."""

    key: Key
    qos: int
    t_s: float


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
        self.blind: list[tuple[float, float]] = []
        self._half: dict[int, bytes] = {}
        self._blind_since_s = 0.0

    def upstream_killed(self) -> None:
        """From now until the next SUBACK or resumed session nothing is promised to us."""
        if not self._blind_since_s:
            self._blind_since_s = time.monotonic()

    def on_connected(self, session_present: bool) -> None:
        if session_present:
            self._sees()
        else:
            self._half.clear()
            self.send(subscribe(1, "#", 2))

    def _sees(self) -> None:
        self.subscribed = True
        if self._blind_since_s:
            self.blind.append((self._blind_since_s, time.monotonic()))
            self._blind_since_s = 0.0

    def on_lost(self) -> None:
        self.subscribed = False

    def on_packet(self, packet: Packet) -> None:
        if packet.kind == SUBACK:
            self._sees()
        elif packet.kind == PUBREL:
            self._half.pop(packet.mid, None)
            self.send(ack(PUBCOMP, packet.mid))
        elif packet.kind == PUBLISH:
            message = parse_publish(packet)
            if message.qos:
                self.send(ack(PUBREC if message.qos == 2 else PUBACK, message.mid))
            if message.qos == 2:
                again = message.dup and self._half.get(message.mid) == packet.body
                self._half[message.mid] = packet.body
                if again:
                    return
            key = key_of(message.topic, message.payload)
            if key is not None:
                self.arrivals.append(Arrival(key, message.qos, time.monotonic()))
                self.arrived.add(key)
            elif not message.topic.endswith("/status") and len(self.strangers) < 10:
                self.strangers.append(f"{message.topic} {message.payload[:60]!r}")
