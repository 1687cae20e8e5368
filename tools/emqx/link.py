"""One TCP connection of the stand-in, on asyncio: packets in, answers out."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import cast

from tools.emqx import packets as mqtt
from tools.emqx.broker import NOT_AUTHORIZED, Broker
from tools.emqx.session import RECEIVE_MAXIMUM_EXCEEDED, Session

MALFORMED, PROTOCOL_ERROR, PACKET_TOO_LARGE, KEEPALIVE_TIMEOUT = 0x81, 0x82, 0x95, 0x8D
_BUSY_S = 0.02  # how long a socket is left alone before the rate is looked at again


class Link(asyncio.Protocol):
    """Talks to one client."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.session: Session | None = None
        self._transport: asyncio.Transport | None = None
        self._decoder = mqtt.Decoder()
        self._v5 = False
        self._will: mqtt.Message | None = None
        self._loop = asyncio.get_running_loop()
        self._heard_s = self._loop.time()
        self._credit, self._credit_at_s = 0.0, self._loop.time()
        self._watch: asyncio.TimerHandle | None = None
        self._waiting: list[bytes] = []  # read from the socket, not looked at yet
        self._parts: list[bytes] = []
        self._taking = self._paused = False
        self._host = ""

    # --- asyncio's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._host = transport.get_extra_info("peername")[0]
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._broker.links.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._broker.links.discard(self)
        if self._watch is not None:
            self._watch.cancel()
        self._broker.gone(self, self._will)

    def data_received(self, data: bytes) -> None:
        self._heard_s = self._loop.time()
        self._waiting.append(data)
        if len(self._waiting) == 1:
            self._work()

    def _work(self) -> None:
        """Read what came, as fast as the listener's rate allows."""
        while self._waiting and self._transport is not None and not self._transport.is_closing():
            if not self._may_read():
                if not self._paused:
                    self._transport.pause_reading()
                self._paused = True
                self._loop.call_later(_BUSY_S, self._work)
                return
            self._take(self._waiting.pop(0))
        if self._paused and self._transport is not None and not self._transport.is_closing():
            self._paused = False
            self._transport.resume_reading()

    def _may_read(self) -> bool:
        settings = self._broker.settings
        if not settings.reading:
            return False
        if settings.messages_rate <= 0:
            return True
        now_s = self._loop.time()
        self._credit = min(settings.messages_rate, self._credit
                           + (now_s - self._credit_at_s) * settings.messages_rate)
        self._credit_at_s = now_s
        return self._credit > 0

    def _take(self, data: bytes) -> None:
        self._taking = True
        try:
            for head, body in self._decoder.feed(data, self._broker.settings.max_packet_bytes):
                self._packet(head, body)
                if self._transport is None or self._transport.is_closing():
                    break
        except mqtt.TooLargeError:
            self._reset(PACKET_TOO_LARGE)
        except (ValueError, IndexError):
            self.hang_up(MALFORMED)
        self._taking = False
        self._flush()

    def _flush(self) -> None:
        parts, self._parts = self._parts, []
        if parts and self._transport is not None and not self._transport.is_closing():
            self._transport.write(b"".join(parts))

    # --- the broker's side

    def send(self, data: bytes) -> None:
        """Write, behind what is still to be answered."""
        self._parts.append(data)
        if not self._taking:
            self._flush()

    def hang_up(self, reason: int | None) -> None:
        """Say DISCONNECT where MQTT 5 has one and reason is given, then close."""
        if self._transport is None:
            return
        if self._v5 and reason is not None:
            self._parts.append(mqtt.encode(mqtt.DISCONNECT, 0, bytes((reason, 0))))
        self._flush()
        self._transport.close()

    def _reset(self, reason: int) -> None:
        """As hang_up, by RST: what lies unread in the socket makes one of it in EMQX."""
        if self._transport is None:
            return
        if self._v5:
            self._parts.append(mqtt.encode(mqtt.DISCONNECT, 0, bytes((reason, 0))))
        self._flush()
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    # --- packets

    def _packet(self, head: int, body: bytes) -> None:
        kind, flags = head >> 4, head & 15
        if self.session is None:
            if kind != mqtt.CONNECT:
                raise ValueError("CONNECT expected")
            self._connect(body)
        elif kind == mqtt.PUBLISH:
            self._publish(flags, body)
        elif kind == mqtt.PUBREL:
            mid = int.from_bytes(body[:2], "big")
            self._ack(mqtt.PUBCOMP, mid, self._broker.release(self.session, mid))
        elif kind in (mqtt.PUBACK, mqtt.PUBREC, mqtt.PUBCOMP):
            self._parts.append(self.session.acked(kind, int.from_bytes(body[:2], "big")))
        elif kind == mqtt.PINGREQ:
            self._parts.append(b"\xd0\x00")
        elif kind == mqtt.SUBSCRIBE:
            self._subscribe(body)
        elif kind == mqtt.UNSUBSCRIBE:
            self._unsubscribe(body)
        elif kind == mqtt.DISCONNECT:
            self._disconnect(body)
        else:
            self.hang_up(PROTOCOL_ERROR)

    def _connect(self, body: bytes) -> None:
        packet = mqtt.parse_connect(body)
        assert self._transport is not None
        self._v5, self._will = packet.level == 5, packet.will
        if not packet.client_id:
            packet = packet._replace(client_id=f"auto-{id(self):x}")
        session, present = self._broker.connect(self, packet)
        self.session = session
        settings = self._broker.settings
        said = b""
        if self._v5:
            window = min(packet.receive_maximum or 65_535, settings.max_inflight)
            said = (struct.pack(">BH", 0x21, window) + b"\x25\x01"
                    + struct.pack(">BI", 0x27, settings.max_packet_bytes)
                    + struct.pack(">BH", 0x22, 65_535) + b"\x28\x01\x29\x01\x2a\x01")
            said = mqtt.varint(len(said)) + said
        self._parts.append(mqtt.encode(mqtt.CONNACK, 0, bytes((present, 0)) + said))
        self._parts.append(session.resume(v5=self._v5, receive_maximum=packet.receive_maximum,
                                          max_packet_bytes=packet.max_packet_bytes))
        if packet.keepalive_s:
            self._keep_alive(packet.keepalive_s * 1.5)

    def _keep_alive(self, limit_s: float) -> None:
        """Close on a client that was silent for so long [s]."""
        left_s = self._heard_s + limit_s - self._loop.time()
        if left_s <= 0 and not self._waiting:
            self.hang_up(KEEPALIVE_TIMEOUT)
            return
        self._watch = self._loop.call_later(max(left_s, 0.1), self._keep_alive, limit_s)

    def _publish(self, flags: int, body: bytes) -> None:
        assert self.session is not None
        mid, message = mqtt.parse_publish(flags, body, v5=self._v5)
        if message.qos and not mid:
            self.hang_up(PROTOCOL_ERROR)
            return
        self._credit -= 1
        reason = self._broker.publish(self.session, mid, message, bool(flags & 8))
        if reason == RECEIVE_MAXIMUM_EXCEEDED or (
                reason == NOT_AUTHORIZED and self._broker.settings.deny_action == "disconnect"):
            self.hang_up(reason)
        elif message.qos:
            self._ack(mqtt.PUBACK if message.qos == 1 else mqtt.PUBREC, mid, reason)

    def _ack(self, kind: int, mid: int, reason: int) -> None:
        self._parts.append(mqtt.encode_ack(kind, mid, reason, v5=self._v5))

    def _subscribe(self, body: bytes) -> None:
        assert self.session is not None
        mid, wanted = mqtt.parse_subscribe(body, v5=self._v5)
        codes, behind = bytearray(), b""
        for topic_filter, qos in wanted:
            if self._broker.may_subscribe(self._host, topic_filter):
                codes.append(qos)
                behind += self._broker.subscribe(self.session, topic_filter, qos)
            elif self._broker.settings.deny_action == "disconnect":
                self.hang_up(NOT_AUTHORIZED)
                return
            else:
                codes.append(NOT_AUTHORIZED if self._v5 else 0x80)
        head = struct.pack(">H", mid) + (b"\0" if self._v5 else b"")
        self._parts += [mqtt.encode(mqtt.SUBACK, 0, head + codes), behind]

    def _unsubscribe(self, body: bytes) -> None:
        assert self.session is not None
        mid, filters = mqtt.parse_unsubscribe(body, v5=self._v5)
        codes = bytes(0 if self._broker.unsubscribe(self.session, name) else 0x11
                      for name in filters)
        head = struct.pack(">H", mid)
        self._parts.append(mqtt.encode(mqtt.UNSUBACK, 0, head + b"\0" + codes if self._v5
                                       else head))

    def _disconnect(self, body: bytes) -> None:
        if not body or body[0] == 0:
            self._will = None
        if self._v5 and len(body) > 1 and self.session is not None:
            cursor = mqtt.Cursor(body)
            cursor.at = 1
            expiry_s = cursor.properties().get(mqtt.SESSION_EXPIRY)
            if expiry_s is not None:
                self.session.expiry_s = expiry_s
        self.hang_up(None)
