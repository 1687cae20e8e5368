"""MQTT 3.1.1 for the crash judge: a codec of its own, and a client on asyncio.

It shares no line with the gateway's `wire` or with paho, so that a fault of theirs cannot hide
itself here. It knows only what the judge needs (OASIS MQTT 3.1.1, section 3).
"""

from __future__ import annotations

import asyncio
import random
import struct
import time
from typing import NamedTuple, cast

from tools.ports import HOST

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP = range(1, 8)
SUBSCRIBE, SUBACK, PINGRESP, DISCONNECT = 8, 9, 13, 14
KEEPALIVE_S = 8
PING_S = 2.0
ANSWER_S = 4.0
"""Without a sign of life for so long [s] a client gives its connection up and tries again."""
RETRY_S = (0.01, 0.06)


class Packet(NamedTuple):
    """One packet: its type, its four flag bits, and all behind the fixed header."""

    kind: int
    flags: int
    body: bytes

    @property
    def mid(self) -> int:
        """The packet identifier of an acknowledgement."""
        return self.body[0] << 8 | self.body[1]


class Publish(NamedTuple):
    """A PUBLISH taken apart."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    dup: bool
    mid: int


class Decoder:
    """Bytes of one direction of one connection, in any pieces, to packets."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[Packet]:
        """Return the packets that are whole now. Raises ValueError at a bad length."""
        data = self._rest + data
        packets, at = [], 0
        while len(data) - at >= 2:
            length = shift = 0
            body = at + 1
            while body < len(data):
                byte = data[body]
                body += 1
                length |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    break
                if shift > 21:
                    raise ValueError("remaining length of more than four bytes")
            else:
                break
            if len(data) < body + length:
                break
            packets.append(Packet(data[at] >> 4, data[at] & 15, data[body : body + length]))
            at = body + length
        self._rest = data[at:]
        return packets


def parse_publish(packet: Packet, *, v5: bool = False) -> Publish:
    """Take a PUBLISH apart (section 3.3; with v5, over the properties of MQTT 5)."""
    qos, body = packet.flags >> 1 & 3, packet.body
    cut = 2 + (body[0] << 8 | body[1])
    topic = body[2:cut].decode()
    mid = 0
    if qos:
        mid = body[cut] << 8 | body[cut + 1]
        cut += 2
    if v5:  # a length of at most four bytes, then so many bytes (MQTT 5.0 section 2.2.2)
        size = shift = 0
        while True:
            byte = body[cut]
            cut += 1
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        cut += size
    return Publish(topic, body[cut:], qos, bool(packet.flags & 1), bool(packet.flags & 8), mid)


def client_id_of(packet: Packet) -> str:
    """Return the client identifier of a CONNECT (section 3.1)."""
    size = int.from_bytes(packet.body[10:12], "big")
    return packet.body[12 : 12 + size].decode()


def encode(kind: int, flags: int, body: bytes) -> bytes:
    """Put the fixed header before a body (section 2.2)."""
    out, length = bytearray((kind << 4 | flags,)), len(body)
    while True:
        length, byte = divmod(length, 128)
        out.append(byte | (0x80 if length else 0))
        if not length:
            return bytes(out) + body


def _text(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack(">H", len(raw)) + raw


def publish(message: Publish) -> bytes:
    """PUBLISH (section 3.3)."""
    flags = message.dup << 3 | message.qos << 1 | message.retain
    mid = struct.pack(">H", message.mid) if message.qos else b""
    return encode(PUBLISH, flags, _text(message.topic) + mid + message.payload)


def ack(kind: int, mid: int) -> bytes:
    """PUBACK, PUBREC, PUBREL or PUBCOMP."""
    return encode(kind, 2 if kind == PUBREL else 0, struct.pack(">H", mid))


def connect(client_id: str, *, clean: bool, keepalive_s: int, will: Publish | None) -> bytes:
    """CONNECT (section 3.1)."""
    flags, tail = (2 if clean else 0), _text(client_id)
    if will is not None:
        flags |= 4 | will.qos << 3 | will.retain << 5
        tail += _text(will.topic) + _text(will.payload)
    return encode(CONNECT, 0, _text("MQTT") + struct.pack(">BBH", 4, flags, keepalive_s) + tail)


def subscribe(mid: int, topic_filter: str, qos: int) -> bytes:
    """SUBSCRIBE to one filter (section 3.8)."""
    return encode(SUBSCRIBE, 2, struct.pack(">H", mid) + _text(topic_filter) + bytes((qos,)))


class _Wire(asyncio.Protocol):
    """One connection of a Client."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.transport: asyncio.Transport | None = None
        self.over = asyncio.Event()
        self.heard_s = time.monotonic()
        self._decoder = Decoder()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        if self.transport is None:
            return  # aborted: what comes late counts for nothing
        self.heard_s = time.monotonic()
        for packet in self._decoder.feed(data):
            self.client.take(packet)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self.over.set()


class Client:
    """Connects, and connects again, until `leave` or `vanish`."""

    def __init__(self, port: int, client_id: str, rng: random.Random, *, clean: bool,
                 will: Publish | None = None) -> None:
        self.port, self.client_id = port, client_id
        self.connected = False
        self.connects = 0
        self._rng, self._clean, self._will = rng, clean, will
        self._wire: _Wire | None = None
        self._gone = False
        self._task: asyncio.Task[None] | None = None

    # what a kind of client says

    def on_connected(self, session_present: bool) -> None:
        """A CONNACK came."""

    def on_lost(self) -> None:
        """The connection is gone."""

    def on_packet(self, packet: Packet) -> None:
        """Any other packet came."""

    # what it can

    def start(self) -> None:
        """Begin to connect."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    def send(self, data: bytes) -> None:
        """Write, if there is a connection."""
        if self._wire is not None and self._wire.transport is not None:
            self._wire.transport.write(data)

    def abort(self) -> None:
        """End the connection by RST; it is tried again."""
        if self._wire is not None and self._wire.transport is not None:
            self._wire.transport.abort()
            self._wire.transport = None

    def vanish(self) -> None:
        """End without DISCONNECT and never come back."""
        self._gone = True
        self.abort()

    async def leave(self) -> None:
        """Say DISCONNECT and never come back."""
        self._gone = True
        if self._wire is not None and self._wire.transport is not None:
            self.send(encode(DISCONNECT, 0, b""))
            self._wire.transport.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self.abort()

    def take(self, packet: Packet) -> None:
        """Sort what came."""
        if packet.kind == CONNACK:
            if packet.body[1] == 0:
                self.connected = True
                self.connects += 1
                self.on_connected(bool(packet.body[0] & 1))
        elif packet.kind != PINGRESP:
            self.on_packet(packet)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._gone:
            try:
                _, wire = await loop.create_connection(lambda: _Wire(self), HOST, self.port)
            except OSError:
                await asyncio.sleep(self._rng.uniform(*RETRY_S))
                continue
            self._wire = wire
            if self._gone:
                self.abort()
                return
            self.send(connect(self.client_id, clean=self._clean, keepalive_s=KEEPALIVE_S,
                              will=self._will))
            try:
                await self._watch(wire)
            finally:
                self.connected = False
                self.on_lost()
            await asyncio.sleep(self._rng.uniform(*RETRY_S))

    async def _watch(self, wire: _Wire) -> None:
        """Return at the end of the connection; ping, and give up a peer that says nothing."""
        while not wire.over.is_set():
            try:
                async with asyncio.timeout(PING_S):
                    await wire.over.wait()
            except TimeoutError:
                if time.monotonic() - wire.heard_s > ANSWER_S:
                    self.abort()
                    return
                if self.connected:
                    self.send(b"\xc0\x00")
