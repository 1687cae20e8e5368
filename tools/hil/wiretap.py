"""MQTT read off TCP byte streams: what clients said, as events. Pure; for proxies and pcaps.

Rules:
- A stream counts from its CONNECT on. One that begins in the middle (a capture that was started
  late) is let pass and counted as `unreadable`: its packet boundaries cannot be known.
- What a client says (`up`) becomes events. What the broker says is not recorded.
- A connection that ends after DISCONNECT gives `disconnect`, any other end `cut`. One that is
  still open when the recording ends gives nothing.
- MQTT 3.1, 3.1.1 and 5; properties of 5 are skipped, user names and passwords never kept.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field

from tools.crash_mqtt import CONNECT, DISCONNECT, PUBLISH, Decoder, Packet
from tools.hil.recording import Event, Will, packed, publish_event

Emit = Callable[[Event], None]
MQTT5 = 5


class _Fields:
    """A packet's body, read field by field; ValueError where it is too short."""

    def __init__(self, body: bytes) -> None:
        self.body, self.at = body, 0

    def take(self, count: int) -> bytes:
        """Return the next bytes."""
        piece = self.body[self.at : self.at + count]
        if len(piece) < count:
            raise ValueError("a packet ends in the middle of a field")
        self.at += count
        return piece

    def number(self, count: int = 2) -> int:
        """Return a number of so many bytes."""
        return int.from_bytes(self.take(count), "big")

    def binary(self) -> bytes:
        """Return bytes with their length in front."""
        return self.take(self.number())

    def skip_properties(self) -> None:
        """Skip MQTT 5's properties (section 2.2.2)."""
        length = shift = 0
        while True:
            byte = self.number(1)
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        self.take(length)


@dataclass
class _Stream:
    decoder: Decoder = field(default_factory=Decoder)
    client: str = ""
    level: int = 0
    begun: bool = False
    connected: bool = False
    said_goodbye: bool = False
    broken: bool = False


class Wiretap:
    """Takes bytes of many connections and calls `emit` with each event, in the order fed."""

    def __init__(self, emit: Emit, *, side: str = "") -> None:
        self.unreadable = 0
        self._emit, self._side = emit, side
        self._streams: dict[Hashable, _Stream] = {}

    def feed(self, connection: Hashable, t_ns: int, data: bytes) -> None:
        """Take bytes that the client of a connection sent at t_ns [ns since the begin]."""
        stream = self._streams.setdefault(connection, _Stream())
        if stream.broken:
            return
        try:
            if not stream.begun and data[0] >> 4 != CONNECT:
                raise ValueError("does not begin with CONNECT")
            stream.begun = True
            for packet in stream.decoder.feed(data):
                self._packet(stream, t_ns, packet)
        except (ValueError, struct.error):
            stream.broken = True
            self.unreadable += 1

    def gap(self, connection: Hashable) -> None:
        """Bytes of a connection are missing: it cannot be read from here on."""
        stream = self._streams.setdefault(connection, _Stream())
        if not stream.broken:
            stream.broken = True
            self.unreadable += 1

    def end(self, connection: Hashable, t_ns: int) -> None:
        """Note that a connection has ended."""
        stream = self._streams.pop(connection, None)
        if stream is not None and stream.connected:
            kind = "disconnect" if stream.said_goodbye else "cut"
            self._emit(Event(t=t_ns, e=kind, c=stream.client, side=self._side))

    def _packet(self, stream: _Stream, t_ns: int, packet: Packet) -> None:
        if not stream.connected:
            self._connect(stream, t_ns, packet.body)
        elif packet.kind == PUBLISH:
            fields, qos = _Fields(packet.body), packet.flags >> 1 & 3
            topic = fields.binary().decode()
            if qos:
                fields.number()
            if stream.level == MQTT5:
                fields.skip_properties()
            self._emit(publish_event(
                t_ns, stream.client, topic, packet.body[fields.at :], qos=qos,
                retain=bool(packet.flags & 1), dup=bool(packet.flags & 8), side=self._side))
        elif packet.kind == DISCONNECT:
            stream.said_goodbye = True

    def _connect(self, stream: _Stream, t_ns: int, body: bytes) -> None:
        """CONNECT: section 3.1 of MQTT 3.1.1 and of MQTT 5."""
        fields = _Fields(body)
        fields.binary()
        stream.level = fields.number(1) & 0x7F
        flags = fields.number(1)
        keepalive_s = fields.number()
        if stream.level == MQTT5:
            fields.skip_properties()
        stream.client = fields.binary().decode()
        will = None
        if flags & 4:
            if stream.level == MQTT5:
                fields.skip_properties()
            topic = fields.binary().decode()
            text, b64 = packed(fields.binary())
            will = Will(topic=topic, qos=flags >> 3 & 3, retain=bool(flags & 32),
                        text=text, b64=b64)
        stream.connected = True
        self._emit(Event(t=t_ns, e="connect", c=stream.client, side=self._side,
                         clean=bool(flags & 2), keepalive_s=keepalive_s, will=will))
