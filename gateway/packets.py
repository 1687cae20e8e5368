"""MQTT packets: their kinds, what is in each, and the bytes of those that we send. No I/O.

gateway/wire.py reads them. The encoders return bytes that the caller joins into one write.
Sources: OASIS MQTT 3.1.1 (sections named at each function) and MQTT 5.0 where `v5` is said.
"""

from __future__ import annotations

import struct

from msgspec import Struct

CONNECT, CONNACK, PUBLISH, PUBACK, PUBREC, PUBREL, PUBCOMP = range(1, 8)
SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK, PINGREQ, PINGRESP, DISCONNECT = range(8, 15)

PINGRESP_BYTES = b"\xd0\x00"
_head_ack = struct.Struct(">BBH").pack
_BYTE = [bytes((value,)) for value in range(256)]
_u16 = struct.Struct(">H")


class Publish(Struct, gc=False):
    """A PUBLISH packet (section 3.3)."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    dup: bool
    mid: int  # packet identifier; 0 at QoS 0


class Ack(Struct, gc=False):
    """PUBACK, PUBREC, PUBREL or PUBCOMP (sections 3.4 to 3.7)."""

    kind: int
    mid: int
    reason: int = 0  # MQTT 5 reason code; below 0x80 is success


class Connect(Struct):
    """A CONNECT packet (section 3.1)."""

    client_id: str
    clean: bool
    keepalive_s: int
    will: Publish | None
    username: str | None
    password: bytes | None
    level: int


class Subscribe(Struct):
    """SUBSCRIBE (3.8) or, with qos -1 throughout, UNSUBSCRIBE (3.10)."""

    mid: int
    filters: list[tuple[str, int]]


class Simple(Struct, gc=False):
    """PINGREQ, PINGRESP or DISCONNECT."""

    kind: int


class Raw(Struct, gc=False):
    """Any other packet, whole, for somebody else to read."""

    kind: int
    data: bytes


Packet = Publish | Ack | Connect | Subscribe | Simple | Raw


def encode_length(length: int) -> bytes:
    """Remaining length (section 2.2.3)."""
    if length < 128:
        return bytes((length,))
    out = bytearray()
    while True:
        length, byte = length >> 7, length & 0x7F
        out.append(byte | 0x80 if length else byte)
        if not length:
            return bytes(out)


def encode_text(text: str) -> bytes:
    """Length-prefixed UTF-8 (section 1.5.3)."""
    raw = text.encode()
    return _u16.pack(len(raw)) + raw


def encode_publish(topic: bytes, payload: bytes, qos: int, retain: bool, dup: bool, mid: int,
                   *, v5: bool = False) -> bytes:
    """PUBLISH (section 3.3). topic: as `encode_text` gives it, so that it can be kept."""
    head = 0x30 | qos << 1 | retain | (8 if dup else 0)
    extra = _u16.pack(mid) if qos else b""
    if v5:
        extra += b"\0"  # no properties
    length = len(topic) + len(extra) + len(payload)
    size = _BYTE[length] if length < 128 else encode_length(length)
    return b"".join((_BYTE[head], size, topic, extra, payload))


def encode_ack(kind: int, mid: int) -> bytes:
    """PUBACK, PUBREC, PUBREL or PUBCOMP without a reason, alike in 3.1.1 and 5.0."""
    return _head_ack(kind << 4 | (2 if kind == PUBREL else 0), 2, mid)


def encode_connack(session_present: bool, code: int) -> bytes:
    """CONNACK (section 3.2)."""
    return bytes((0x20, 2, session_present and code == 0, code))


def encode_subscribe(mid: int, filters: list[tuple[str, int]], *, v5: bool = False) -> bytes:
    """SUBSCRIBE (section 3.8); at MQTT 5 with No Local, so that nothing of ours comes back."""
    body = b"".join(encode_text(f) + bytes((qos | (4 if v5 else 0),)) for f, qos in filters)
    head = _u16.pack(mid) + (b"\0" if v5 else b"")
    return b"\x82" + encode_length(len(head) + len(body)) + head + body


def encode_suback(mid: int, granted: list[int]) -> bytes:
    """SUBACK (section 3.9)."""
    return b"\x90" + encode_length(2 + len(granted)) + _u16.pack(mid) + bytes(granted)


def encode_unsuback(mid: int) -> bytes:
    """UNSUBACK (section 3.11)."""
    return b"\xb0\x02" + _u16.pack(mid)
