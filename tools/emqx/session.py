"""One session of the stand-in, from both ends: what a client sent, and what it is sent. No I/O.

Towards the broker (EMQX 5.8, emqx_session_mem:publish and pubrel):

- A QoS 2 PUBLISH is routed at once; its packet identifier is held until PUBREL, or for
  await_rel_timeout.
- Are max_awaiting_rel held, any further QoS 2 PUBLISH ends the connection, one that is
  already held too.
- PUBLISH under an identifier that is held, with or without DUP, another message or not: 0x91,
  not routed. At MQTT 3.1.1 there is no room for the reason: a plain PUBREC, not routed either.
- PUBREL of a held one: PUBCOMP 0; of any other: PUBCOMP 0x92.
- Nothing of that depends on what the message says.

Towards the client: QoS 1 and 2 in a window of min(its Receive Maximum, max_inflight), all else in
a queue; on a resumed session PUBLISH with DUP or PUBREL again.
"""

from __future__ import annotations

from collections import deque

from tools.emqx.packets import (
    PUBACK,
    PUBREC,
    PUBREL,
    Message,
    encode_ack,
    encode_publish,
)
from tools.emqx.settings import Settings

SUCCESS, NO_SUBSCRIBERS = 0x00, 0x10
IN_USE, NOT_FOUND, RECEIVE_MAXIMUM_EXCEEDED = 0x91, 0x92, 0x93


class Flying:
    """A message on its way to the client, under a packet identifier."""

    __slots__ = ("message", "qos", "received")

    def __init__(self, message: Message, qos: int) -> None:
        self.message, self.qos, self.received = message, qos, False


class Session:
    """What a broker keeps for a client identifier. Times are monotonic [s]."""

    def __init__(self, client_id: str, settings: Settings) -> None:
        self.client_id, self._settings = client_id, settings
        self.expiry_s = 0.0
        self.ended_at_s: float | None = None  # when its connection went
        self.subscriptions: dict[str, int] = {}
        self.held: dict[int, float] = {}  # QoS 2 packet identifiers and since when
        self.kept_back: dict[int, Message] = {}  # of those, with deliver_at_pubrel
        self.queue: deque[tuple[Message, int]] = deque()
        self.flying: dict[int, Flying] = {}
        self.dropped = 0
        self.connected = False
        self._v5, self._window, self._max_packet_bytes = False, 32, 1 << 28
        self._last_mid = 0

    # --- from the client

    def admit(self, mid: int, dup: bool, now_s: float) -> tuple[bool, int]:
        """Take a QoS 2 PUBLISH: whether it is to be routed, and the PUBREC's reason.

        RECEIVE_MAXIMUM_EXCEEDED ends the connection, without a PUBREC.
        """
        settings = self._settings
        self._expire(now_s)
        full = len(self.held) >= settings.max_awaiting_rel
        if settings.acks_unknown_dup:
            if mid in self.held:
                return False, SUCCESS if dup else IN_USE
            if full:
                return False, RECEIVE_MAXIMUM_EXCEEDED
            self.held[mid] = now_s
            return not dup, SUCCESS
        if full:
            return False, RECEIVE_MAXIMUM_EXCEEDED
        if mid in self.held:
            return False, IN_USE
        self.held[mid] = now_s
        return True, SUCCESS

    def release(self, mid: int, now_s: float) -> int:
        """Take a PUBREL; returns the PUBCOMP's reason."""
        self._expire(now_s)
        return SUCCESS if self.held.pop(mid, None) is not None else NOT_FOUND

    def _expire(self, now_s: float) -> None:
        oldest_s = now_s - self._settings.await_rel_timeout_s
        while self.held:  # in the order in which they came
            mid, since_s = next(iter(self.held.items()))
            if since_s >= oldest_s:
                return
            del self.held[mid]

    # --- to the client

    def resume(self, *, v5: bool, receive_maximum: int | None, max_packet_bytes: int) -> bytes:
        """Its client is there (again): what to send now."""
        self.connected, self.ended_at_s = True, None
        self._v5, self._max_packet_bytes = v5, max_packet_bytes
        self._window = min(receive_maximum or 65_535, self._settings.max_inflight)
        again = [encode_ack(PUBREL, mid, 0, v5=v5) if flying.received else
                 encode_publish(flying.message, flying.qos, mid, dup=True, retain=False, v5=v5)
                 for mid, flying in self.flying.items()]
        return b"".join(again) + self._more()

    def suspend(self, now_s: float) -> None:
        """Its client is gone."""
        self.connected, self.ended_at_s = False, now_s

    def expired(self, now_s: float) -> bool:
        """Whether it has been without a client for too long."""
        return self.ended_at_s is not None and now_s - self.ended_at_s >= self.expiry_s

    def deliver(self, message: Message, qos: int) -> bytes:
        """Hand a message to the client, now or later: what to send now."""
        qos = min(message.qos, qos)
        if qos == 0:
            return encode_publish(message, 0, 0, dup=False, retain=message.retain,
                                  v5=self._v5) if self.connected else b""
        if self.connected and not self.queue and len(self.flying) < self._window:
            return self._send(message, qos)
        if len(self.queue) >= self._settings.max_mqueue_len:
            self.queue.popleft()
            self.dropped += 1
        self.queue.append((message, qos))
        return b""

    def _send(self, message: Message, qos: int) -> bytes:
        mid = self._next_mid()
        part = encode_publish(message, qos, mid, dup=False, retain=message.retain, v5=self._v5)
        if len(part) > self._max_packet_bytes:
            self.dropped += 1
            return b""
        self.flying[mid] = Flying(message, qos)
        return part

    def _next_mid(self) -> int:
        while True:
            self._last_mid = self._last_mid % 65_535 + 1
            if self._last_mid not in self.flying:
                return self._last_mid

    def _more(self) -> bytes:
        out = bytearray()
        while self.queue and len(self.flying) < self._window:
            out += self._send(*self.queue.popleft())
        return bytes(out)

    def acked(self, kind: int, mid: int) -> bytes:
        """PUBACK, PUBREC or PUBCOMP of the client came: what to send now."""
        flying = self.flying.get(mid)
        if kind == PUBREC:
            if flying is None or flying.qos != 2:
                return encode_ack(PUBREL, mid, NOT_FOUND, v5=self._v5)
            reason, flying.received = (IN_USE if flying.received else SUCCESS), True
            return encode_ack(PUBREL, mid, reason, v5=self._v5)
        if flying is None or (kind == PUBACK) != (flying.qos == 1) or (
                flying.qos == 2 and not flying.received):
            return b""
        del self.flying[mid]
        return self._more()
