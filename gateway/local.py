"""Sessions, subscriptions and retained messages of the clients that connect to us. Pure.

The gateway grants QoS 1 at most: what matters goes upstream through the outbox; what local clients
subscribe to is the house's convenience. A persistent session (clean session 0) keeps its
subscriptions and up to QUEUE_LIMIT messages while its client is away, in memory only: a restart of
the gateway forgets it, and the CONNACK then says so (session present 0).
"""

from __future__ import annotations

from collections import deque

from gateway.topics import FilterTable, matches
from gateway.wire import Publish, encode_publish, encode_text

QUEUE_LIMIT = 1000
QUEUE_BYTES = 4 * 2**20  # payloads, beside QUEUE_LIMIT
WINDOW = 100  # QoS 1 messages in flight to one client
WINDOW_BYTES = 2**20  # payloads, beside WINDOW; one more message may begin below it
FEED_BYTES = 2**18  # retained messages given to a socket at once


class Session:
    """What the gateway keeps for one client identifier.

    out: bytes for the client's socket, taken by whoever owns it; None while it is away.
    retained: all retained messages of the house.
    """

    def __init__(self, client_id: str, clean: bool,
                 retained: dict[str, Publish] | None = None) -> None:
        self.client_id = client_id
        self.clean = clean
        self.filters: dict[str, int] = {}
        self.out: bytearray | None = None
        self.in_flight: dict[int, Publish] = {}
        self.queue: deque[Publish] = deque()
        # Topics whose retained message it is owed, at QoS 0 (as its socket takes them) and 1 (as
        # its window does). Only topics: what has changed meanwhile is sent as it is then.
        self.owed: tuple[dict[str, None], dict[str, None]] = ({}, {})
        self.feeding = False  # for whoever owns the socket
        self.received: set[int] = set()  # QoS 2 identifiers between PUBREC and PUBREL
        self.dropped = 0
        self._retained = {} if retained is None else retained
        self._queue_bytes = self._window_bytes = 0
        self._mid = 0

    def deliver(self, message: Publish, wire: bytes | None = None) -> bool:
        """Send or queue a message; True where bytes were added to `out`.

        wire: the packet's bytes at QoS 0, where the caller has them.
        """
        if message.qos == 0:
            if self.out is None:
                return False
            self.out += wire or _wire(message)
            return True
        if self.out is None or not self._open():
            size = len(message.payload)
            if len(self.queue) >= QUEUE_LIMIT or self._queue_bytes + size > QUEUE_BYTES:
                self.dropped += 1
                return False
            self.queue.append(message)
            self._queue_bytes += size
            return False
        self._send(message)
        return True

    def owe(self, topic: str, qos: int) -> None:
        """Note a topic whose retained message is to be sent."""
        self.owed[qos][topic] = None

    def feed(self) -> None:
        """Add some of the retained messages it is owed to `out`: its socket has room."""
        assert self.out is not None
        while self.owed[0] and len(self.out) < FEED_BYTES:
            message = self._next_owed(0)
            if message is not None:
                self.out += _wire(message)
        self._fill_window()

    def acknowledged(self, mid: int) -> None:
        """The client's PUBACK: room for the next one."""
        message = self.in_flight.pop(mid, None)
        if message is not None:
            self._window_bytes -= len(message.payload)
            if self.out is not None:
                self._fill_window()

    def resume(self) -> None:
        """The client is back: send again what it has not acknowledged (section 4.4)."""
        assert self.out is not None
        for mid, message in self.in_flight.items():
            self.out += encode_publish(encode_text(message.topic), message.payload, 1,
                                       message.retain, True, mid)
        self.feed()

    def _open(self) -> bool:
        return len(self.in_flight) < WINDOW and self._window_bytes < WINDOW_BYTES

    def _next_owed(self, qos: int) -> Publish | None:
        """The next retained message it is owed; None where that topic has none any more."""
        topic = next(iter(self.owed[qos]))
        del self.owed[qos][topic]
        message = self._retained.get(topic)
        return None if message is None else Publish(topic, message.payload, qos, True, False, 0)

    def _fill_window(self) -> None:
        while self.owed[1] and self._open():
            owed = self._next_owed(1)
            if owed is not None:
                self._send(owed)
        while self.queue and self._open():
            message = self.queue.popleft()
            self._queue_bytes -= len(message.payload)
            self._send(message)

    def _send(self, message: Publish) -> None:
        assert self.out is not None
        self._mid = self._mid % 65535 + 1
        while self._mid in self.in_flight:
            self._mid = self._mid % 65535 + 1
        self.in_flight[self._mid] = message
        self._window_bytes += len(message.payload)
        self.out += encode_publish(encode_text(message.topic), message.payload, 1,
                                   message.retain, False, self._mid)


def _wire(message: Publish) -> bytes:
    return encode_publish(encode_text(message.topic), message.payload, 0, message.retain, False, 0)


class Locals:
    """All sessions, who subscribes to what, and the retained messages."""

    def __init__(self, retained: dict[str, Publish]) -> None:
        self.sessions: dict[str, Session] = {}
        self.retained = retained
        self._table: FilterTable[tuple[Session, int]] = FilterTable()
        self.subscribed = self._table.by_filter  # true where anybody is

    def open(self, client_id: str, clean: bool) -> tuple[Session, bool]:
        """The session for a CONNECT, and whether it was there before (section 3.2.2.2)."""
        old = self.sessions.get(client_id)
        if old is not None and not (clean or old.clean):
            return old, True
        if old is not None:
            self.forget(old)
        session = self.sessions[client_id] = Session(client_id, clean, self.retained)
        return session, False

    def forget(self, session: Session) -> None:
        """Drop a session and its subscriptions."""
        for topic_filter in session.filters:
            self._table.drop(topic_filter, session.client_id)
        if self.sessions.get(session.client_id) is session:
            del self.sessions[session.client_id]

    def subscribe(self, session: Session, topic_filter: str, qos: int) -> int:
        """Add a subscription, send what is retained for it; return the granted QoS."""
        granted = min(qos, 1)
        session.filters[topic_filter] = granted
        self._table.put(topic_filter, session.client_id, (session, granted))
        return granted

    def send_retained(self, session: Session, topic_filter: str, granted: int) -> None:
        """Owe the retained messages a new subscription asks for (section 3.8.4), send some."""
        for topic, message in self.retained.items():
            if matches(topic_filter, topic):
                session.owe(topic, min(message.qos, granted))
        session.feed()

    def unsubscribe(self, session: Session, topic_filter: str) -> None:
        """Take a subscription away."""
        if session.filters.pop(topic_filter, None) is not None:
            self._table.drop(topic_filter, session.client_id)
            for owed in session.owed:
                for topic in [t for t in owed if not any(matches(f, t) for f in session.filters)]:
                    del owed[topic]

    def publish(self, message: Publish, touched: set[Session]) -> None:
        """Deliver to all who subscribe, once each (section 3.3.5); add to `touched` those with
        new bytes to send."""
        found = self._table.find(message.topic)
        if not found:
            return
        best: dict[Session, int] = {}
        for session, granted in found:
            best[session] = max(granted, best.get(session, 0))
        wire: bytes | None = None
        for session, granted in best.items():
            qos = min(message.qos, granted)
            plain = Publish(message.topic, message.payload, qos, False, False, 0)
            if qos == 0 and wire is None:
                wire = _wire(plain)
            if session.deliver(plain, wire):
                touched.add(session)

    def retain(self, message: Publish) -> None:
        """Keep, replace or (empty payload) forget a retained message (section 3.3.1.3)."""
        if message.payload:
            self.retained[message.topic] = Publish(message.topic, message.payload, message.qos,
                                                   True, False, 0)
        else:
            self.retained.pop(message.topic, None)
