"""gateway/inbound.py: what a connection may do, and when it has been silent for too long."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import wire
from gateway.errors import ProtocolError
from gateway.inbound import LEFT, NEW, OPEN, Inbound
from gateway.wire import encode_publish, encode_text

PING, DISCONNECT = b"\xc0\x00", b"\xe0\x00"
PUBLISH = encode_publish(encode_text("t"), b"x", 0, False, False, 0)


def connect(keepalive_s: int = 0) -> bytes:
    return b"\x10\x0d\x00\x04MQTT\x04\x02" + keepalive_s.to_bytes(2, "big") + b"\x00\x01c"


def opened(keepalive_s: int = 0) -> Inbound:
    core = Inbound(0.0, 5.0, 1000)
    core.feed(connect(keepalive_s), 1.0)
    return core


def test_connect_opens() -> None:
    core = Inbound(0.0, 5.0, 1000)
    assert core.state == NEW
    packets = core.feed(connect(), 1.0)
    assert [type(packet) for packet in packets] == [wire.Connect]
    assert core.state == OPEN


@pytest.mark.parametrize("first", [PUBLISH, PING, DISCONNECT])
def test_anything_before_connect_is_refused(first: bytes) -> None:
    with pytest.raises(ProtocolError, match="no CONNECT"):
        Inbound(0.0, 5.0, 1000).feed(first + connect(), 1.0)


@pytest.mark.parametrize("together", [True, False])
def test_second_connect_is_refused(together: bool) -> None:
    core = Inbound(0.0, 5.0, 1000)
    if not together:
        core.feed(connect(), 1.0)
    with pytest.raises(ProtocolError, match="second CONNECT"):
        core.feed(connect() * (2 if together else 1), 1.0)


def test_ping_is_answered_at_once() -> None:
    core = opened()
    assert core.feed(PING + PUBLISH + PING, 1.0) == [wire.Publish("t", b"x", 0, False, False, 0)]
    assert core.out == wire.PINGRESP_BYTES * 2


def test_nothing_behind_disconnect_counts() -> None:
    core = opened()
    assert len(core.feed(PUBLISH + DISCONNECT + PUBLISH, 1.0)) == 1
    assert core.state == LEFT
    assert core.feed(connect() + PUBLISH, 1.0) == []
    assert core.state == LEFT


@pytest.mark.parametrize(("now_s", "why"), [(4.9, None), (5.0, "no CONNECT in time")])
def test_connect_has_a_deadline(now_s: float, why: str | None) -> None:
    core = Inbound(0.0, 5.0, 1000)
    core.feed(connect()[:5], 4.0)  # a part of it does not count
    assert core.overdue(now_s) == why


@pytest.mark.parametrize(("now_s", "why"), [(15.9, None), (16.0, "keepalive")])
def test_keepalive_is_one_and_a_half_times(now_s: float, why: str | None) -> None:
    assert opened(10).overdue(now_s) == why


def test_keepalive_starts_anew_with_every_packet() -> None:
    core = opened(10)
    core.feed(PING, 15.0)
    assert core.overdue(29.9) is None
    assert core.overdue(30.0) == "keepalive"


def test_keepalive_of_0_never_ends() -> None:
    assert opened(0).overdue(1e9) is None


def test_keepalive_waits_while_we_do_not_read() -> None:
    core = opened(10)
    core.patience(100.0)
    assert core.overdue(114.0) is None
    assert core.overdue(115.0) == "keepalive"


def test_oversized_packet_is_refused() -> None:
    with pytest.raises(ProtocolError) as caught:
        opened().feed(encode_publish(encode_text("t"), bytes(1000), 0, False, False, 0), 1.0)
    assert caught.value.reason == "oversized"


@given(st.lists(st.integers(1, 9), min_size=1))
def test_any_cut_of_the_stream_gives_the_same(cuts: list[int]) -> None:
    core, data, got = Inbound(0.0, 5.0, 1000), connect() + PUBLISH * 3 + PING + DISCONNECT, 0
    while data:
        for size in cuts:
            got += len(core.feed(data[:size], 1.0))
            data = data[size:]
    assert (got, core.state, bytes(core.out)) == (4, LEFT, wire.PINGRESP_BYTES)


def test_keepalive_moves_with_every_byte_of_a_packet() -> None:
    core = opened(10)
    packet = encode_publish(encode_text("t"), bytes(500), 0, False, False, 0)
    for at, byte in enumerate(packet):
        now_s = 1.0 + 14.9 * (at + 1)
        assert core.overdue(now_s) is None
        assert bool(core.feed(bytes([byte]), now_s)) == (at == len(packet) - 1)
    assert core.overdue(now_s + 15.0) == "keepalive"


def test_connect_that_trickles_in_has_its_time_and_no_more() -> None:
    core = Inbound(0.0, 5.0, 1000)
    for at, byte in enumerate(connect(60)[:-1]):
        core.feed(bytes([byte]), 0.3 * at)
        assert core.overdue(0.3 * at) is None
    assert core.overdue(5.0) == "no CONNECT in time"
