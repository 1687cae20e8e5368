"""gateway/wire.py: every packet there and back, any cut of the stream, no error but ours."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import wire
from gateway.errors import ProtocolError
from gateway.wire import Ack, Connect, Packet, Publish, Simple, Subscribe, decode

LETTERS = st.characters(exclude_categories=["Cc", "Cs", "Cn"], exclude_characters="+#")
TOPICS = st.text(LETTERS, min_size=1, max_size=30)
MIDS = st.integers(1, 65_535)


@st.composite
def publishes(draw: st.DrawFn) -> Publish:
    qos = draw(st.integers(0, 2))
    return Publish(draw(TOPICS), draw(st.binary(max_size=300)), qos, draw(st.booleans()),
                   draw(st.booleans()), draw(MIDS) if qos else 0)


def text(value: str) -> bytes:
    return wire.encode_text(value)


def to_bytes(packet: Packet) -> bytes:
    """A second opinion on how a packet looks on the wire; only PUBLISH and acks are ours."""
    if isinstance(packet, Publish):
        return wire.encode_publish(text(packet.topic), packet.payload, packet.qos, packet.retain,
                                   packet.dup, packet.mid)
    if isinstance(packet, Ack):
        return wire.encode_ack(packet.kind, packet.mid)
    if isinstance(packet, Simple):
        return bytes((packet.kind << 4, 0))
    if isinstance(packet, Subscribe):
        kind = wire.SUBSCRIBE if packet.filters[0][1] >= 0 else wire.UNSUBSCRIBE
        body = packet.mid.to_bytes(2, "big")
        for topic_filter, qos in packet.filters:
            body += text(topic_filter) + (bytes((qos,)) if qos >= 0 else b"")
        return bytes((kind << 4 | 2,)) + wire.encode_length(len(body)) + body
    assert isinstance(packet, Connect)
    flags = packet.clean << 1 | (packet.username is not None) << 7 \
        | (packet.password is not None) << 6
    will = packet.will
    if will is not None:
        flags |= 4 | will.qos << 3 | will.retain << 5
    body = text("MQTT" if packet.level == 4 else "MQIsdp") + bytes((packet.level, flags)) \
        + packet.keepalive_s.to_bytes(2, "big") + text(packet.client_id)
    if will is not None:
        body += text(will.topic) + len(will.payload).to_bytes(2, "big") + will.payload
    if packet.username is not None:
        body += text(packet.username)
    if packet.password is not None:
        body += len(packet.password).to_bytes(2, "big") + packet.password
    return b"\x10" + wire.encode_length(len(body)) + body


@st.composite
def connects(draw: st.DrawFn) -> Connect:
    will = None
    if draw(st.booleans()):
        will = Publish(draw(TOPICS), draw(st.binary(max_size=50)), draw(st.integers(0, 2)),
                       draw(st.booleans()), False, 0)
    user = draw(st.none() | TOPICS)
    return Connect(draw(st.text(LETTERS, max_size=30)), draw(st.booleans()),
                   draw(st.integers(0, 65_535)), will, user,
                   None if user is None else draw(st.none() | st.binary(max_size=20)),
                   draw(st.sampled_from((3, 4))))


FILTERS = st.lists(TOPICS | st.just("+") | st.just("a/+/b") | st.just("a/#") | st.just("#"),
                   min_size=1, max_size=3)
PACKETS = st.one_of(
    publishes(),
    st.builds(Ack, st.integers(wire.PUBACK, wire.PUBCOMP), MIDS),
    st.builds(Simple, st.sampled_from((wire.PINGREQ, wire.DISCONNECT))),
    st.builds(lambda mid, fs, qos: Subscribe(mid, [(f, qos) for f in fs]), MIDS, FILTERS,
              st.integers(-1, 2)),
    connects())


@given(st.lists(PACKETS, min_size=1, max_size=6))
def test_decode_of_encoded_packets_gives_the_same(packets: list[Packet]) -> None:
    data = b"".join(map(to_bytes, packets))
    assert decode(data) == (packets, len(data))


@given(st.lists(PACKETS, max_size=5), st.lists(st.integers(1, 40), min_size=1))
def test_decode_of_any_cut_of_the_stream_gives_the_same(packets: list[Packet],
                                                        cuts: list[int]) -> None:
    data, rest, got = b"".join(map(to_bytes, packets)), b"", []
    while data:
        for size in cuts:
            rest, data = rest + data[:size], data[size:]
            found, used = decode(rest)
            got += found
            rest = rest[used:]
    assert (got, rest) == (packets, b"")


@given(st.binary(max_size=200), st.booleans(), st.booleans())
def test_decode_of_garbage_raises_nothing_but_protocolerror(data: bytes, v5: bool,
                                                            client: bool) -> None:
    try:
        _, used = decode(data, 150, v5=v5, client=client)
    except ProtocolError:
        pass
    else:
        assert 0 <= used <= len(data)


@given(PACKETS, st.data())
def test_decode_of_one_changed_byte_raises_nothing_but_protocolerror(packet: Packet,
                                                                     data: st.DataObject) -> None:
    raw = bytearray(to_bytes(packet))
    raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    for v5 in (False, True):
        try:
            decode(bytes(raw), v5=v5)
        except ProtocolError:
            pass


@given(st.integers(0, 268_435_455))
def test_remaining_length_is_as_table_2_4_says(length: int) -> None:
    raw = wire.encode_length(length)
    assert len(raw) == 1 + sum(length >= limit for limit in (128, 16_384, 2_097_152))
    value = sum((byte & 127) << 7 * index for index, byte in enumerate(raw))
    assert value == length
    assert all(byte >= 128 for byte in raw[:-1])
    assert raw[-1] < 128


def test_remaining_length_of_five_bytes_is_malformed() -> None:
    with pytest.raises(ProtocolError, match="remaining length"):
        decode(b"\x30\xff\xff\xff\xff\x01")


@pytest.mark.parametrize("over", [0, 1])
def test_packet_limit_counts_the_header(over: int) -> None:
    raw = wire.encode_publish(text("t"), bytes(300), 0, False, False, 0)
    if over:
        with pytest.raises(ProtocolError) as caught:
            decode(raw, len(raw) - 1)
        assert caught.value.reason == "oversized"
    else:
        assert decode(raw, len(raw))[1] == len(raw)


def test_packet_limit_is_checked_before_the_packet_is_there() -> None:
    with pytest.raises(ProtocolError, match="oversized"):
        decode(b"\x30\xff\xff\x03", 1000)


PROPERTIES = st.sampled_from([b"\0", b"\x02\x01\x01", b"\x07\x26\x00\x01a\x00\x01b",
                              b"\x80\x01" + b"\x26" + b"\x00\x3d" + b"k" * 61 + b"\x00\x3e"
                              + b"v" * 62])


@given(publishes(), PROPERTIES)
def test_v5_properties_of_a_publish_are_skipped(packet: Publish, properties: bytes) -> None:
    body = text(packet.topic) + (packet.mid.to_bytes(2, "big") if packet.qos else b"") \
        + properties + packet.payload
    head = 0x30 | packet.dup << 3 | packet.qos << 1 | packet.retain
    data = bytes((head,)) + wire.encode_length(len(body)) + body
    assert decode(data, v5=True) == ([packet], len(data))


@given(publishes())
def test_v5_publish_of_ours_is_read_by_v5_only(packet: Publish) -> None:
    data = wire.encode_publish(text(packet.topic), packet.payload, packet.qos, packet.retain,
                               packet.dup, packet.mid, v5=True)
    assert decode(data, v5=True) == ([packet], len(data))
    assert decode(data)[0] != [packet]


@pytest.mark.parametrize(("tail", "reason"), [(b"", 0), (b"\x10", 0x10), (b"\x97\x00", 0x97),
                                              (b"\x80\x05\x1f\x00\x02no", 0x80)])
def test_v5_acknowledgement_carries_its_reason(tail: bytes, reason: int) -> None:
    data = bytes((0x40, 2 + len(tail))) + b"\x01\x02" + tail
    assert decode(data, v5=True) == ([Ack(wire.PUBACK, 0x102, reason)], len(data))
    if tail:
        with pytest.raises(ProtocolError):
            decode(data)


@pytest.mark.parametrize(("data", "what"), [
    (b"\x36\x05\x00\x01a\x00\x01", "QoS 3"),
    (b"\x32\x05\x00\x01a\x00\x00", "packet identifier 0"),
    (b"\x32\x03\x00\x01a", "no packet identifier"),
    (b"\x30\x03\x00\x09a", "topic longer than the packet"),
    (b"\x30\x02\x00\x00", "empty topic"),
    (b"\x30\x03\x00\x01#", "wildcard in a topic"),
    (b"\x30\x04\x00\x02a\x00", "NUL"),
    (b"\x30\x04\x00\x02a\x07", "control character"),
    (b"\x30\x05\x00\x03\xed\xa0\x80", "surrogate"),
    (b"\x30\x05\x00\x03\xef\xbf\xbf", "non-character"),
    (b"\x60\x02\x00\x01", "PUBREL without its flags"),
    (b"\x42\x02\x00\x01", "PUBACK with flags"),
    (b"\x00\x00", "packet type 0"),
    (b"\xf0\x00", "packet type 15"),
    (b"\xc1\x00", "PINGREQ with flags"),
    (b"\xc0\x01\x00", "PINGREQ with a body"),
    (b"\x82\x02\x00\x01", "SUBSCRIBE of nothing"),
    (b"\x82\x06\x00\x01\x00\x01a\x03", "SUBSCRIBE at QoS 3"),
    (b"\x82\x07\x00\x01\x00\x02a#\x00", "bad filter"),
    (b"\x82\x08\x00\x01\x00\x03#/a\x00", "# not last"),
    (b"\x80\x06\x00\x01\x00\x01a\x00", "SUBSCRIBE without its flags"),
    (b"\x20\x02\x00\x00", "CONNACK from a client"),
    (b"\x10\x0c\x00\x04MQTT\x04\x01\x00\x0a\x00\x00", "reserved flag"),
    (b"\x10\x0c\x00\x04MQTT\x04\x40\x00\x0a\x00\x00", "password without a user"),
    (b"\x10\x0c\x00\x04MQTT\x04\x20\x00\x0a\x00\x00", "will retain without a will"),
    (b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x0a\x00\x00x", "bytes behind CONNECT"),
    (b"\x10\x0c\x00\x04MQTT\x06\x02\x00\x0a\x00\x00", "protocol level"),
    (b"\x10\x0c\x00\x04HTTP\x04\x02\x00\x0a\x00\x00", "not MQTT"),
])
def test_violation_of_the_standard_is_refused(data: bytes, what: str) -> None:
    with pytest.raises(ProtocolError):
        decode(data)


def test_longest_topic_is_bounded() -> None:
    fits = wire.encode_publish(text("a" * 4096), b"", 0, False, False, 0)
    assert decode(fits)[1] == len(fits)
    with pytest.raises(ProtocolError, match="bad topic"):
        decode(wire.encode_publish(text("a" * 4097), b"", 0, False, False, 0))


def test_longest_client_identifier_is_bounded() -> None:
    def connect(client_id: str) -> bytes:
        body = text("MQTT") + b"\x04\x02\x00\x00" + text(client_id)
        return b"\x10" + wire.encode_length(len(body)) + body

    assert decode(connect("ü" * 512))[0] == [
        Connect("ü" * 512, True, 0, None, None, None, 4)]
    with pytest.raises(ProtocolError, match="client identifier: 1026 bytes, at most 1024"):
        decode(connect("ü" * 513))


@pytest.mark.parametrize(("present", "code", "expected"), [
    (True, 0, b"\x20\x02\x01\x00"), (False, 0, b"\x20\x02\x00\x00"),
    (True, 2, b"\x20\x02\x00\x02")])  # MQTT-3.2.2-4: no session present with an error
def test_connack_is_as_section_3_2_says(present: bool, code: int, expected: bytes) -> None:
    assert wire.encode_connack(present, code) == expected


def test_suback_and_unsuback_are_as_sections_3_9_and_3_11_say() -> None:
    assert wire.encode_suback(0x1234, [0, 1]) == b"\x90\x04\x12\x34\x00\x01"
    assert wire.encode_unsuback(0x1234) == b"\xb0\x02\x12\x34"
