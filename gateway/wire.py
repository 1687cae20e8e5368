"""Reads MQTT packets, many at a time. No I/O.

`decode` takes whatever one read brought and returns all whole packets in it; the caller keeps the
rest. The packets themselves and how they are written are gateway/packets.py's; whoever reads
imports them from here too. Sources: OASIS MQTT 3.1.1 (sections named at each function) and
MQTT 5.0 where `v5` is said.
"""

from __future__ import annotations

import re
import struct

from gateway.errors import ProtocolError
from gateway.packets import (
    CONNACK,
    CONNECT,
    DISCONNECT,
    PINGREQ,
    PINGRESP,
    PINGRESP_BYTES,
    PUBACK,
    PUBCOMP,
    PUBLISH,
    PUBREC,
    PUBREL,
    SUBACK,
    SUBSCRIBE,
    UNSUBACK,
    UNSUBSCRIBE,
    Ack,
    Connect,
    Packet,
    Publish,
    Raw,
    Simple,
    Subscribe,
    encode_ack,
    encode_connack,
    encode_length,
    encode_publish,
    encode_suback,
    encode_subscribe,
    encode_text,
    encode_unsuback,
)

__all__ = [  # the packets too, so that one import serves who reads and writes
    "CONNACK", "CONNECT", "DISCONNECT", "PINGREQ", "PINGRESP", "PINGRESP_BYTES", "PUBACK",
    "PUBCOMP", "PUBLISH", "PUBREC", "PUBREL", "SUBACK", "SUBSCRIBE", "UNSUBACK", "UNSUBSCRIBE",
    "Ack", "Connect", "Packet", "Publish", "Raw", "Simple", "Subscribe", "check_filter",
    "check_topic", "decode", "decode_acks", "encode_ack", "encode_connack", "encode_length",
    "encode_publish", "encode_suback", "encode_subscribe", "encode_text", "encode_unsuback",
]

# Flags each packet type must carry in its first byte (3.1.1 table 2.2); PUBLISH's vary.
_FLAGS = dict.fromkeys(range(1, 15), 0) | {PUBREL: 2, SUBSCRIBE: 2, UNSUBSCRIBE: 2}
_MAX_REMAINING = 268_435_455  # section 2.2.3
_TOPICS_CACHED = 4096
_TOPIC_CACHED_BYTES = 256  # a longer one is read anew each time, so that the cache stays small
_TOPIC_MOST_BYTES = 4096  # so that an upstream topic made of it always fits
_CLIENT_ID_MOST_BYTES = 1024  # it is stored with every message
# Control and non-characters: section 1.5.3 lets a receiver refuse them, and Mosquitto does.
_BAD_TEXT = re.compile("[\0-\x1f\x7f-\x9f\ufdd0-\ufdef"
                       + "".join(chr(plane << 16 | low) for plane in range(17)
                                 for low in (0xFFFE, 0xFFFF)) + "]")

_ACKS = struct.Struct(">BxH")
_ACK_HEADS = bytes((PUBACK << 4, PUBREC << 4, PUBREL << 4 | 2, PUBCOMP << 4))

_topics: dict[bytes, str] = {}


def check_topic(raw: bytes) -> str:
    """Return the topic name in raw; raise where it is empty or has a wildcard (4.7.1, 4.7.3)."""
    topic = _text(raw)
    if not topic or "+" in topic or "#" in topic:
        raise ProtocolError("bad topic", repr(topic[:80]))
    if len(raw) <= _TOPIC_CACHED_BYTES:
        if len(_topics) >= _TOPICS_CACHED:
            _topics.clear()
        _topics[raw] = topic
    elif len(raw) > _TOPIC_MOST_BYTES:
        raise ProtocolError("bad topic", f"{len(raw)} bytes, at most {_TOPIC_MOST_BYTES}")
    return topic


def check_filter(raw: bytes) -> str:
    """Return the topic filter in raw; raise where its wildcards stand wrong (section 4.7.1)."""
    topic_filter = _text(raw)
    levels = topic_filter.split("/")
    if not topic_filter:
        raise ProtocolError("bad filter", "empty")
    for i, level in enumerate(levels):
        whole = level in ("+", "#")
        if ("+" in level or "#" in level) and not whole:
            raise ProtocolError("bad filter", repr(topic_filter[:80]))
        if level == "#" and i != len(levels) - 1:
            raise ProtocolError("bad filter", repr(topic_filter[:80]))
    return topic_filter


def _text(raw: bytes) -> str:
    """UTF-8 without control characters (section 1.5.3)."""
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise ProtocolError("malformed", "text that is not UTF-8") from error
    if _BAD_TEXT.search(text):
        raise ProtocolError("malformed", "text with a control character")
    return text


def decode(data: bytes, max_bytes: int = _MAX_REMAINING, *, v5: bool = False,
           client: bool = False) -> tuple[list[Packet], int]:
    """Decode the whole packets at the start of data.

    max_bytes: largest packet taken, header included. client: we are the client, so CONNACK and
    the like come back as `Raw`. Returns the packets and the number of bytes they took.
    Raises ProtocolError with the packets before the fault lost to the caller's use of them: a
    malformed packet ends the connection (section 4.8).
    """
    out: list[Packet] = []
    pos, size = 0, len(data)
    while size - pos >= 2:
        head = data[pos]
        length = data[pos + 1]
        body = pos + 2
        if length & 0x80:  # section 2.2.3
            length &= 0x7F
            shift = 7
            while True:
                if shift > 21:
                    raise ProtocolError("malformed", "remaining length")
                if body >= size:
                    return out, pos
                byte = data[body]
                body += 1
                length |= (byte & 0x7F) << shift
                shift += 7
                if byte < 0x80:
                    break
        end = body + length
        if end - pos > max_bytes:
            raise ProtocolError("oversized", f"a packet of {end - pos} bytes, limit {max_bytes}")
        if end > size:
            break
        kind = head >> 4
        if kind == PUBLISH:
            qos = (head >> 1) & 3
            if length < 2 or qos == 3:
                raise ProtocolError("malformed", "PUBLISH")
            cut = body + 2 + (data[body] << 8 | data[body + 1])
            raw = data[body + 2:cut]
            mid = 0
            if qos:
                if cut + 2 > end:
                    raise ProtocolError("malformed", "no packet identifier")
                mid = data[cut] << 8 | data[cut + 1]
                if mid == 0:  # section 2.3.1
                    raise ProtocolError("malformed", "packet identifier 0")
                cut += 2
            if v5:
                cut = _skip_properties(data, cut, end)
            if cut > end:
                raise ProtocolError("malformed", "PUBLISH")
            topic = _topics.get(raw) or check_topic(raw)
            out.append(Publish(topic, data[cut:end], qos, head & 1 == 1, head & 8 == 8, mid))
        elif PUBACK <= kind <= PUBCOMP:
            if head & 15 != _FLAGS[kind] or length < 2 or (length > 2 and not v5):
                raise ProtocolError("malformed", "acknowledgement")
            out.append(Ack(kind, _mid(data, body, end), data[body + 2] if length > 2 else 0))
        else:
            out.append(_rare(kind, head, data[pos:end], body - pos, client=client))
        pos = end
    return out, pos


def decode_acks(data: bytes) -> list[Ack] | None:
    """Decode bytes that are whole acknowledgements without a reason and nothing else, as a
    broker under load sends them; None for anything else, which `decode` reads."""
    if len(data) & 3 or data[::4].strip(_ACK_HEADS) or data[1::4].strip(b"\2") \
            or b"\2\0\0" in data:
        return None
    return [Ack(head >> 4, mid) for head, mid in _ACKS.iter_unpack(data)]


def _mid(data: bytes, at: int, end: int) -> int:
    if at + 2 > end:
        raise ProtocolError("malformed", "no packet identifier")
    mid = data[at] << 8 | data[at + 1]
    if mid == 0:  # section 2.3.1
        raise ProtocolError("malformed", "packet identifier 0")
    return mid


def _skip_properties(data: bytes, at: int, end: int) -> int:
    """Index behind the MQTT 5 properties that start at `at` (5.0 section 2.2.2)."""
    length = shift = 0
    while at < end and shift <= 21:
        byte = data[at]
        at += 1
        length |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return at + length
    raise ProtocolError("malformed", "properties")


def _rare(kind: int, head: int, packet: bytes, body: int, *, client: bool) -> Packet:
    """The packets that come once a connection or once a minute."""
    if client:
        return Raw(kind, packet)
    if kind not in _FLAGS or head & 15 != _FLAGS[kind]:
        raise ProtocolError("malformed", f"packet type {kind} flags {head & 15}")
    reader = _Reader(packet, body)
    if kind == CONNECT:
        return _connect(reader)
    if kind in (SUBSCRIBE, UNSUBSCRIBE):
        return _subscribe(reader, kind)
    if kind in (PINGREQ, DISCONNECT):
        if len(packet) != 2:
            raise ProtocolError("malformed", "PINGREQ or DISCONNECT with a body")
        return Simple(kind)
    raise ProtocolError("unexpected", f"packet type {kind} from a client")


class _Reader:
    """Reads the fields of one packet in order."""

    def __init__(self, data: bytes, pos: int) -> None:
        self.data, self.pos = data, pos

    def take(self, count: int) -> bytes:
        part = self.data[self.pos:self.pos + count]
        if len(part) != count:
            raise ProtocolError("malformed", "packet too short")
        self.pos += count
        return part

    def u16(self) -> int:
        return int.from_bytes(self.take(2), "big")

    def binary(self) -> bytes:
        return self.take(self.u16())

    def text(self) -> str:
        return _text(self.binary())

    def done(self) -> bool:
        return self.pos == len(self.data)


def _connect(reader: _Reader) -> Connect:
    """Section 3.1. Level 3 is MQTT 3.1 (`MQIsdp`), which old clients still send."""
    name, level = reader.text(), reader.take(1)[0]
    if (name, level) not in (("MQTT", 4), ("MQIsdp", 3)):
        if name in ("MQTT", "MQIsdp"):
            raise ProtocolError("protocol level", f"{level}; this gateway speaks MQTT 3.1.1")
        raise ProtocolError("malformed", "not MQTT")
    flags, keepalive_s = reader.take(1)[0], reader.u16()
    client_id = _client_id(reader.binary())
    will_qos = flags >> 3 & 3
    if flags & 1 or will_qos == 3 or (not flags & 4 and flags & 0x38):
        raise ProtocolError("malformed", "CONNECT flags")
    if flags & 0x40 and not flags & 0x80:  # MQTT-3.1.2-22
        raise ProtocolError("malformed", "password without username")
    will = None
    if flags & 4:
        topic = check_topic(reader.binary())
        will = Publish(topic, reader.binary(), will_qos, bool(flags & 0x20), False, 0)
    username = reader.text() if flags & 0x80 else None
    password = reader.binary() if flags & 0x40 else None
    if not reader.done():
        raise ProtocolError("malformed", "CONNECT with trailing bytes")
    return Connect(client_id, bool(flags & 2), keepalive_s, will, username, password, level)


def _client_id(raw: bytes) -> str:
    """Section 3.1.3.1 asks servers to take 23 bytes and lets them take more."""
    if len(raw) > _CLIENT_ID_MOST_BYTES:
        raise ProtocolError("client identifier",
                            f"{len(raw)} bytes, at most {_CLIENT_ID_MOST_BYTES}")
    return _text(raw)


def _subscribe(reader: _Reader, kind: int) -> Subscribe:
    mid = reader.u16()
    filters: list[tuple[str, int]] = []
    while not reader.done():
        topic_filter = check_filter(reader.binary())
        qos = reader.take(1)[0] if kind == SUBSCRIBE else -1
        if qos > 2:
            raise ProtocolError("malformed", "requested QoS")
        filters.append((topic_filter, qos))
    if not filters or mid == 0:  # MQTT-3.8.3-3
        raise ProtocolError("malformed", "SUBSCRIBE without a filter")
    return Subscribe(mid, filters)
