"""The other way in: subscribe to a broker that already stands, and take what it has.

`[broker] url = "mqtt://…"` in place of, or beside, the listener. A persistent session; every
message is acknowledged to that broker only after our commit. To the rest of the gateway it looks
like one client that publishes, see clients.Peer.

The first promise is then only as good as that broker: it acknowledges to the devices before it has
written anything, so what it loses in a crash was never ours (docs/broker.md has measurements).
"""

from __future__ import annotations

import logging
import time

from gateway import wire
from gateway.clients import Clients
from gateway.config import BrokerConfig
from gateway.devices import PREFIX
from gateway.errors import ProtocolError
from gateway.flight import Limits
from gateway.local import Session
from gateway.topics import matches
from gateway.upstream import Upstream

log = logging.getLogger("tidegate.broker")

# What we put there ourselves, and so must not take as new.
OURS = (f"{PREFIX}+/down/#", f"{PREFIX}gateway/+/status")
# Retained where they come from; a broker passes the flag on only to new subscriptions (3.3.1.3).
RETAINED = (f"{PREFIX}+/status", f"{PREFIX}+/about")


class LocalBroker:
    """Implements upstream.Listener towards the broker and clients.Peer towards the gateway."""

    def __init__(self, config: BrokerConfig, clients: Clients, received: set[int]) -> None:
        self.config = config
        self.link = Upstream(config, self, None, name="broker")
        self.session: Session | None = Session(f"broker/{config.client_id}", clean=False)
        self.session.received |= received
        self.will: wire.Publish | None = None
        self.peer = config.url
        self.held: list[wire.Publish] = []
        self.unacked_bytes = 0
        self.acked_s = 0.0
        self.limited = self.paused = self.congested = False
        self._clients = clients
        self._replays = False
        self._subscribed = False
        clients.join(self)

    # --- towards the broker

    def upstream_connected(self, session_present: bool, limits: Limits) -> None:
        # Subscribing again brings every retained message again; in a session that stands they
        # were had already, live.
        self._replays = session_present
        if not (session_present and self._subscribed):
            self._subscribed = True
            self.link.write([wire.encode_subscribe(1, [(f, 2) for f in self.config.filters],
                                                   v5=limits.v5)])

    def upstream_lost(self, by_broker: bool) -> None:
        """What was held is sent again by the broker, with DUP, in its session."""
        self.held = []

    def upstream_writable(self) -> None:
        """Nothing waits for it."""

    def upstream_publishes(self, publishes: list[wire.Publish]) -> None:
        news: list[wire.Publish] = []
        for publish in publishes:
            if any(matches(ours, publish.topic) for ours in OURS) \
                    or (publish.retain and self._replays):
                if publish.qos:
                    kind = wire.PUBACK if publish.qos == 1 else wire.PUBREC
                    self.write(wire.encode_ack(kind, publish.mid))
                continue
            publish.retain = publish.retain or any(matches(r, publish.topic) for r in RETAINED)
            news.append(publish)
        if news:
            self._clients.take(self, news, time.monotonic())

    def upstream_acks(self, acks: list[wire.Ack]) -> None:
        """PUBREL: the second half of QoS 2 towards us."""
        for ack in acks:
            if ack.kind == wire.PUBREL:
                self._clients.released(self, ack)

    def publish(self, message: wire.Publish) -> None:
        """Tell a device something through the broker, at QoS 0."""
        if self.link.connected:
            self.link.write([wire.encode_publish(
                wire.encode_text(message.topic), message.payload, 0, False, False, 0,
                v5=self.config.protocol == "5")])

    # --- towards the gateway

    def write(self, data: bytes) -> None:
        """Acknowledge; what a lost link had outstanding comes again with DUP."""
        if self.link.connected:
            self.link.write([data])

    def hold(self, wait: bool) -> None:
        """Stop reading, or go on: the broker then keeps what it has."""
        self.paused = wait
        self.link.pause(wait)

    def go_on(self, now_s: float) -> None:
        if not self.held and self.unacked_bytes <= self._clients.max_unacked_bytes:
            self.hold(False)

    def over_rate(self, messages: int, now_s: float) -> bool:
        return False

    def fail(self, error: ProtocolError) -> None:
        self.link.drop(str(error))
