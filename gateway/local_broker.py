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
from functools import partial

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


def session_id(config: BrokerConfig) -> str:
    """What its session is called beside those of the clients."""
    return f"broker/{config.client_id}"


class LocalBroker:
    """Implements upstream.Listener towards the broker and clients.Peer towards the gateway."""

    def __init__(self, config: BrokerConfig, clients: Clients, received: set[int]) -> None:
        self.config = config
        self.link = Upstream(config, self, None, name="broker", subscribed=self._answered)
        self.session: Session | None = Session(session_id(config), clean=False)
        self.session.received |= received
        self.will: wire.Publish | None = None
        self.peer = config.url
        self.held: list[wire.Publish] = []
        self.unacked_bytes = 0
        self.acked_s = 0.0
        self.limited = self.paused = self.congested = False
        self._clients = clients
        self._new = False  # the session began with this run
        self._subscribed = False
        clients.join(self)

    # --- towards the broker

    def upstream_connected(self, session_present: bool, limits: Limits) -> None:
        assert self.session is not None
        subscribe = partial(self._subscribe, self.link.connects, v5=limits.v5)
        if not session_present:
            self._new, self._subscribed = True, False
            # First on disk: a crash must not bring identifiers of the old session back, under
            # which this one has something new by then. Nothing comes before the SUBSCRIBE.
            self._clients.forget_received(self.session, subscribe)
        elif not self._subscribed:
            subscribe()

    def _subscribe(self, link: int, *, v5: bool) -> None:
        """Ask for the topics, where that link is still there."""
        if self.link.connected and self.link.connects == link:
            self.link.write([wire.encode_subscribe(1, [(f, 2) for f in self.config.filters],
                                                   v5=v5)])

    def _answered(self, codes: list[int]) -> None:
        """SUBACK, a code for each filter; from 0x80 on it was refused."""
        self._subscribed = True
        for topic_filter, code in zip(self.config.filters, codes, strict=False):
            if code >= 0x80:
                log.error("the broker refuses a subscription, nothing of it comes; give %s the "
                          "right to read it, or change broker.filters filter=%s code=0x%02x",
                          self.config.username or self.config.client_id, topic_filter, code)

    def upstream_lost(self, by_broker: bool, code: int = 0) -> None:
        """What was not acknowledged is sent again by the broker, with DUP, in its session."""
        self._clients.lost(self)

    def upstream_writable(self) -> None:
        """Nothing waits for it."""

    def upstream_publishes(self, publishes: list[wire.Publish]) -> None:
        news: list[wire.Publish] = []
        acks = b""
        for publish in publishes:
            # Subscribing again brings every retained message again; in a session that stood
            # before this run they were had already, live, but for one that comes with DUP.
            if any(matches(ours, publish.topic) for ours in OURS) \
                    or (publish.retain and not (self._new or publish.dup)):
                if publish.qos:
                    kind = wire.PUBACK if publish.qos == 1 else wire.PUBREC
                    acks += wire.encode_ack(kind, publish.mid)
                continue
            publish.retain = publish.retain or any(matches(r, publish.topic) for r in RETAINED)
            news.append(publish)
        if news:
            self._clients.take(self, news, time.monotonic())
        if acks:  # last: a link found dead by writing has to be lost after all it brought
            self.write(acks)

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
        """Acknowledge what came over this link; see Clients.lost."""
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
