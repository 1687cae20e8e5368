"""The stand-in's sessions, its routing and who may do what. No I/O.

- A session outlives its connection for its expiry (MQTT 5) or session_expiry_s (3.1.1), in memory
  alone: it does not outlive the process, as in EMQX without durable sessions.
- A second connection under a client identifier takes the session over: DISCONNECT 0x8E to the
  first, no will. A kick ends the session too: DISCONNECT 0x98, no will.
- A message without subscribers is acknowledged with 0x10 at MQTT 5.
- The limiter comes first, then the access rules, and only then the packet identifier: a PUBLISH
  with DUP that the session holds can get 0x97 or 0x87 as well (emqx_channel:process_publish).
- Refused by limiter or rule: PUBACK or PUBREC with 0x97 or 0x87 at MQTT 5. At 3.1.1 the same
  packet has no room for a reason: it looks taken, and the message is gone.
- Subscribing `#` or `+/#` is denied to all but 127.0.0.1 (EMQX's own acl.conf).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from tools.emqx.packets import Connect, Message, matches
from tools.emqx.session import NO_SUBSCRIBERS, RECEIVE_MAXIMUM_EXCEEDED, SUCCESS, Session
from tools.emqx.settings import Settings

NOT_AUTHORIZED, TAKEN_OVER, QUOTA_EXCEEDED, ADMINISTRATIVE = 0x87, 0x8E, 0x97, 0x98
MAX_RETAINED = 10_000
_CACHE_MOST = 10_000


class Door(Protocol):
    """A connection, as the broker sees it."""

    session: Session | None

    def send(self, data: bytes) -> None: ...

    def hang_up(self, reason: int | None) -> None:
        """Say DISCONNECT where MQTT 5 has one and reason is given, then close."""


class Broker:
    """All sessions of one process."""

    def __init__(self, settings: Settings,
                 clock: Callable[[], float] = time.monotonic) -> None:
        self.settings, self._clock = settings, clock
        self.sessions: dict[str, Session] = {}
        self.doors: dict[str, Door] = {}  # by client identifier
        self.links: set[Door] = set()
        self.retained: dict[str, Message] = {}
        self.counts: Counter[str] = Counter()
        self._routes: dict[str, list[tuple[Session, int]]] = {}
        self._tokens, self._tokens_at_s = 0.0, clock()

    # --- sessions

    def connect(self, door: Door, packet: Connect) -> tuple[Session, bool]:
        """Open or resume a session for a connection: the session, and whether it was present."""
        now_s = self._clock()
        old = self.doors.pop(packet.client_id, None)
        if old is not None:
            old.session = None  # no will
            old.hang_up(TAKEN_OVER)
            self.sessions[packet.client_id].suspend(now_s)
            self.counts["taken over"] += 1
        session = self.sessions.get(packet.client_id)
        if session is not None and (packet.clean or session.expired(now_s)):
            self.drop(session)
            session = None
        present = session is not None
        if session is None:
            self._make_room(now_s)
            session = self.sessions[packet.client_id] = Session(packet.client_id, self.settings)
        expiry_s = packet.session_expiry_s
        if expiry_s is None:
            expiry_s = 0 if packet.clean else int(self.settings.session_expiry_s)
        session.expiry_s = float("inf") if expiry_s == 0xFFFF_FFFF else expiry_s
        self.doors[packet.client_id] = door
        return session, present

    def _make_room(self, now_s: float) -> None:
        if len(self.sessions) < self.settings.max_sessions:
            return
        away = [s for s in self.sessions.values() if not s.connected]
        for session in sorted(away, key=lambda s: s.ended_at_s or now_s)[: len(away) // 2 + 1]:
            self.drop(session)

    def gone(self, door: Door, will: Message | None) -> None:
        """A connection has ended."""
        session = door.session
        if session is None or self.doors.get(session.client_id) is not door:
            return
        del self.doors[session.client_id]
        session.suspend(self._clock())
        if session.expired(self._clock()):
            self.drop(session)
        if will is not None:
            self.route(will)

    def drop(self, session: Session) -> None:
        """Forget a session."""
        if self.sessions.get(session.client_id) is session:
            del self.sessions[session.client_id]
        self._routes.clear()

    def kick(self, client_id: str) -> bool:
        """End a client's connection and session; whether there was one."""
        session, door = self.sessions.get(client_id), self.doors.pop(client_id, None)
        if session is not None:
            self.drop(session)
        if door is not None:
            door.session = None
            door.hang_up(ADMINISTRATIVE)
        return session is not None

    def forget(self, client_id: str) -> None:
        """Forget sessions and what they held, as a restart does, and cut the connections without
        DISCONNECT; an empty client identifier stands for all."""
        for name in [client_id] if client_id else list(self.sessions):
            session, door = self.sessions.get(name), self.doors.pop(name, None)
            if session is not None:
                self.drop(session)
            if door is not None:
                door.session = None
                door.hang_up(None)

    # --- messages

    def publish(self, session: Session, mid: int, message: Message, dup: bool) -> int:
        """Take a PUBLISH: the reason of its acknowledgement, or of the DISCONNECT for
        RECEIVE_MAXIMUM_EXCEEDED and for NOT_AUTHORIZED with `deny_action = disconnect`."""
        settings = self.settings
        if self._over_quota():
            self.counts["over quota"] += 1
            return QUOTA_EXCEEDED
        if settings.deny and matches(settings.deny, message.topic):
            self.counts["denied"] += 1
            return NOT_AUTHORIZED
        if message.qos < 2:
            return self.route(message)
        fresh, reason = session.admit(mid, dup, self._clock())
        if fresh and settings.deliver_at_pubrel:
            session.kept_back[mid] = message
        elif fresh:
            return self.route(message)
        elif reason == RECEIVE_MAXIMUM_EXCEEDED:
            self.counts["too many held"] += 1
        else:
            self.counts["held already"] += 1
        return reason

    def release(self, session: Session, mid: int) -> int:
        """Take a PUBREL: the PUBCOMP's reason."""
        message = session.kept_back.pop(mid, None)
        if message is not None:
            self.route(message)
        return session.release(mid, self._clock())

    def _over_quota(self) -> bool:
        settings = self.settings
        if settings.quota_exceeded:
            return True
        if settings.publish_quota <= 0:
            return False
        now_s = self._clock()
        self._tokens = min(max(1.0, settings.publish_quota), self._tokens
                           + (now_s - self._tokens_at_s) * settings.publish_quota)
        self._tokens_at_s = now_s
        if self._tokens < 1:
            return True
        self._tokens -= 1
        return False

    def route(self, message: Message) -> int:
        """Hand a message to all who want it; returns the reason for its sender."""
        self.counts["routed"] += 1
        if message.retain:
            self._retain(message)
            message = message._replace(retain=False)
        takers = self._routes.get(message.topic)
        if takers is None:
            takers = self._takers(message.topic)
        for session, qos in takers:
            data = session.deliver(message, qos)
            if data:
                self.doors[session.client_id].send(data)
        return SUCCESS if takers else NO_SUBSCRIBERS

    def _retain(self, message: Message) -> None:
        if not message.payload:
            self.retained.pop(message.topic, None)
        elif message.topic in self.retained or len(self.retained) < MAX_RETAINED:
            self.retained[message.topic] = message

    def _takers(self, topic: str) -> list[tuple[Session, int]]:
        if len(self._routes) > _CACHE_MOST:
            self._routes.clear()
        found = []
        for session in self.sessions.values():
            wanted = [qos for topic_filter, qos in session.subscriptions.items()
                      if matches(topic_filter, topic)]
            if wanted:
                found.append((session, max(wanted)))
        self._routes[topic] = found
        return found

    # --- subscriptions

    def may_subscribe(self, host: str, topic_filter: str) -> bool:
        """EMQX's acl.conf as it comes."""
        return host == "127.0.0.1" or topic_filter not in ("#", "+/#", "$SYS/#")

    def subscribe(self, session: Session, topic_filter: str, qos: int) -> bytes:
        """Add a subscription: what to send behind the SUBACK."""
        session.subscriptions[topic_filter] = qos
        self._routes.clear()
        return b"".join(session.deliver(message, qos) for message in self.retained.values()
                        if matches(topic_filter, message.topic))

    def unsubscribe(self, session: Session, topic_filter: str) -> bool:
        """Take a subscription away; whether there was one."""
        self._routes.clear()
        return session.subscriptions.pop(topic_filter, None) is not None
