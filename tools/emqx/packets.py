"""MQTT 3.1.1 and 5.0 for a broker: bytes to packets and back. No I/O, no line of gateway/.

Only what a broker of tests needs (OASIS MQTT 3.1.1 and 5.0, sections 2 and 3). Whatever a peer
sends wrong is a ValueError.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP, SUBSCRIBE = range(1, 9)
SUBACK, UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT = range(9, 15)

RECEIVE_MAXIMUM, MAXIMUM_PACKET_SIZE, SESSION_EXPIRY = 0x21, 0x27, 0x11
_SIZES = {0x01: 1, 0x02: 4, 0x11: 4, 0x13: 2, 0x17: 1, 0x18: 4, 0x19: 1, 0x21: 2, 0x22: 2,
          0x23: 2, 0x24: 1, 0x25: 1, 0x27: 4, 0x28: 1, 0x29: 1, 0x2A: 1}
_TEXTS = {0x03, 0x08, 0x09, 0x12, 0x15, 0x16, 0x1A, 0x1C, 0x1F}
_USER, _SUBSCRIPTION_ID = 0x26, 0x0B


class TooLargeError(ValueError):
    """A packet is larger than this broker allows."""


class Message(NamedTuple):
    """An application message."""

    topic: str
    payload: bytes
    qos: int
    retain: bool


class Connect(NamedTuple):
    """A CONNECT. session_expiry_s and receive_maximum are None where it does not say them."""

    level: int
    clean: bool
    keepalive_s: int
    client_id: str
    will: Message | None
    session_expiry_s: int | None
    receive_maximum: int | None
    max_packet_bytes: int


class Cursor:
    """Reads the fields of one packet, one after another."""

    def __init__(self, body: bytes) -> None:
        self.body, self.at = body, 0

    def take(self, size: int) -> bytes:
        """So many bytes."""
        piece = self.body[self.at : self.at + size]
        if len(piece) < size:
            raise ValueError("packet too short")
        self.at += size
        return piece

    def number(self, size: int = 2) -> int:
        """An integer of so many bytes."""
        return int.from_bytes(self.take(size), "big")

    def text(self) -> str:
        """A string with its length before it."""
        return self.take(self.number()).decode()

    def varint(self) -> int:
        """A variable byte integer (section 1.5.5)."""
        value = 0
        for shift in (0, 7, 14, 21):
            byte = self.number(1)
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("length of more than four bytes")

    def properties(self) -> dict[int, int]:
        """The properties of MQTT 5 that are numbers; others are read over."""
        found: dict[int, int] = {}
        end = self.varint() + self.at
        while self.at < end:
            name = self.number(1)
            if name in _SIZES:
                found[name] = self.number(_SIZES[name])
            elif name in _TEXTS:
                self.take(self.number())
            elif name == _USER:
                self.take(self.number())
                self.take(self.number())
            elif name == _SUBSCRIPTION_ID:
                self.varint()
            else:
                raise ValueError(f"property {name:#x}")
        return found

    def rest(self) -> bytes:
        """All that is left."""
        piece, self.at = self.body[self.at :], len(self.body)
        return piece

    @property
    def more(self) -> bool:
        """Whether anything is left."""
        return self.at < len(self.body)


class Decoder:
    """Bytes of one connection, in any pieces, to (first byte, body). Raises TooLargeError as soon
    as a packet's length is known."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes, limit_bytes: int) -> Iterator[tuple[int, bytes]]:
        """Yield the packets that are whole now."""
        data = self._rest + data if self._rest else data
        at, end = 0, len(data)
        while True:
            size = shift = 0
            body = at + 1
            whole = False
            while body < end and not whole:
                byte = data[body]
                body += 1
                size |= (byte & 127) << shift
                shift += 7
                whole = byte < 128
                if shift > 21 and not whole:
                    raise ValueError("length of more than four bytes")
            if whole and body - at + size > limit_bytes:
                raise TooLargeError(f"{body - at + size} bytes")
            if not whole or end - body < size:
                break
            self._rest = data[body + size :]  # also where the caller stops here
            yield data[at], data[body : body + size]
            at = body + size
        self._rest = data[at:]


def parse_connect(body: bytes) -> Connect:
    """Section 3.1."""
    cursor = Cursor(body)
    name, level = cursor.text(), cursor.number(1)
    if (name, level) not in (("MQTT", 4), ("MQTT", 5)):
        raise ValueError(f"protocol {name} {level}")
    flags, keepalive_s = cursor.number(1), cursor.number()
    said = cursor.properties() if level == 5 else {}
    client_id, will = cursor.text(), None
    if flags & 4:
        if level == 5:
            cursor.properties()
        topic = cursor.text()
        will = Message(topic, cursor.take(cursor.number()), flags >> 3 & 3, bool(flags & 0x20))
    return Connect(level, bool(flags & 2), keepalive_s, client_id, will,
                   said.get(SESSION_EXPIRY, 0) if level == 5 else None,
                   said.get(RECEIVE_MAXIMUM), said.get(MAXIMUM_PACKET_SIZE, 1 << 28))


def parse_publish(flags: int, body: bytes, *, v5: bool) -> tuple[int, Message]:
    """Return packet identifier (0 at QoS 0) and message (section 3.3)."""
    qos = flags >> 1 & 3
    cut = 2 + int.from_bytes(body[:2], "big")
    topic = body[2:cut].decode()
    if qos == 3 or len(body) < cut + 2 * (qos > 0) + v5 or not topic:
        raise ValueError("bad PUBLISH")
    mid = 0
    if qos:
        mid, cut = int.from_bytes(body[cut : cut + 2], "big"), cut + 2
    if v5:
        cursor = Cursor(body)
        cursor.at = cut
        cursor.properties()
        cut = cursor.at
    return mid, Message(topic, body[cut:], qos, bool(flags & 1))


def parse_subscribe(body: bytes, *, v5: bool) -> tuple[int, list[tuple[str, int]]]:
    """Return packet identifier, and filter with QoS of each (section 3.8)."""
    cursor = Cursor(body)
    mid = cursor.number()
    if v5:
        cursor.properties()
    wanted = []
    while cursor.more:
        topic_filter = cursor.text()
        wanted.append((topic_filter, cursor.number(1) & 3))
    return mid, wanted


def parse_unsubscribe(body: bytes, *, v5: bool) -> tuple[int, list[str]]:
    """Return packet identifier and filters (section 3.10)."""
    cursor = Cursor(body)
    mid = cursor.number()
    if v5:
        cursor.properties()
    filters = []
    while cursor.more:
        filters.append(cursor.text())
    return mid, filters


def varint(value: int) -> bytes:
    """A variable byte integer."""
    out = bytearray()
    while True:
        value, byte = divmod(value, 128)
        out.append(byte | (128 if value else 0))
        if not value:
            return bytes(out)


def encode(kind: int, flags: int, body: bytes) -> bytes:
    """Put the fixed header before a body."""
    return bytes((kind << 4 | flags,)) + varint(len(body)) + body


def encode_text(text: str) -> bytes:
    """A string with its length before it."""
    raw = text.encode()
    return struct.pack(">H", len(raw)) + raw


def encode_ack(kind: int, mid: int, reason: int, *, v5: bool) -> bytes:
    """PUBACK, PUBREC, PUBREL or PUBCOMP; MQTT 3.1.1 has no room for the reason."""
    head = kind << 4 | (2 if kind == PUBREL else 0)
    if v5 and reason:
        return struct.pack(">BBHB", head, 3, mid, reason)
    return struct.pack(">BBH", head, 2, mid)


def encode_publish(message: Message, qos: int, mid: int, *, dup: bool, retain: bool,
                   v5: bool) -> bytes:
    """Section 3.3."""
    body = (encode_text(message.topic) + (struct.pack(">H", mid) if qos else b"")
            + (b"\0" if v5 else b"") + message.payload)
    return encode(PUBLISH, dup << 3 | qos << 1 | retain, body)


def matches(topic_filter: str, topic: str) -> bool:
    """Whether a filter matches a topic (section 4.7)."""
    if topic.startswith("$") and topic_filter[:1] in ("#", "+"):
        return False
    wanted, levels = topic_filter.split("/"), topic.split("/")
    for number, name in enumerate(wanted):
        if name == "#":
            return True
        if number >= len(levels) or name not in ("+", levels[number]):
            return False
    return len(wanted) == len(levels)
