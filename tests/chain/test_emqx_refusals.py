"""The stand-in refuses, drops and stalls as EMQX 5.8.4 does; by raw packets."""

from __future__ import annotations

import time

import pytest
from emqx_peer import PUBACK, PUBCOMP, PUBREC, Peer, counts
from test_emqx_qos2 import nothing_more

from tools.emqx.process import Emqx

NOT_AUTHORIZED, QUOTA_EXCEEDED, TOO_LARGE = 0x87, 0x97, 0x95


@pytest.mark.parametrize(("qos", "kind"), [(1, PUBACK), (2, PUBREC)])
def test_limiter_refuses_at_5_and_drops_in_silence_at_3(
        emqx: Emqx, watcher: Peer, v: int, qos: int, kind: int) -> None:
    with Peer(emqx.port, v) as peer:
        peer.hello("p")
        emqx.set(quota_exceeded=True)
        peer.publish("x/1", b"over", qos, mid=1)
        assert peer.answer(1) == (kind, QUOTA_EXCEEDED if v == 5 else 0)
        emqx.set(quota_exceeded=False)
        peer.publish("x/1", b"later", qos, mid=1)
        assert peer.answer(1) == (kind, 0)
        assert peer.release(1)[0] == PUBCOMP
    _, _, payload = watcher.message()
    assert payload == b"later"


def test_limiter_comes_before_the_identifier_that_is_held(emqx: Emqx, watcher: Peer) -> None:
    with Peer(emqx.port, 5) as peer:
        peer.hello("p")
        peer.publish("x/1", b"one", mid=7)
        assert peer.answer(7) == (PUBREC, 0)
        emqx.set(quota_exceeded=True)
        peer.publish("x/1", b"one", mid=7, dup=True)
        assert peer.answer(7) == (PUBREC, QUOTA_EXCEEDED), "and yet it has it"
        emqx.set(quota_exceeded=False)
        peer.publish("x/1", b"one", mid=7, dup=True)
        assert peer.answer(7) == (PUBREC, 0x91)
        assert peer.release(7) == (PUBCOMP, 0)
    assert watcher.receive() == [b"one"]
    nothing_more(watcher)


def test_limiter_lets_its_rate_through(emqx: Emqx) -> None:
    emqx.set(publish_quota=5.0)
    with Peer(emqx.port, 5) as peer:
        peer.hello("p")
        peer.send(b"".join(peer.pack("x/1", b"m", 1, mid=mid) for mid in range(1, 101)))
        reasons = [peer.answer(mid)[1] for mid in range(1, 101)]
        assert QUOTA_EXCEEDED in reasons
        deadline_s = time.monotonic() + 10
        while True:  # a second later it is taken
            peer.publish("x/1", b"m", 1, mid=1)
            if peer.answer(1)[1] != QUOTA_EXCEEDED:
                break
            assert time.monotonic() < deadline_s


@pytest.mark.parametrize(("qos", "kind"), [(1, PUBACK), (2, PUBREC)])
def test_denied_topic_is_refused_at_5_and_dropped_in_silence_at_3(
        emqx: Emqx, watcher: Peer, v: int, qos: int, kind: int) -> None:
    emqx.set(deny="x/secret/#")
    with Peer(emqx.port, v) as peer:
        peer.hello("p")
        peer.publish("x/secret/1", b"no", qos, mid=1)
        assert peer.answer(1) == (kind, NOT_AUTHORIZED if v == 5 else 0)
        if qos == 2:
            assert peer.release(1) == (PUBCOMP, 0x92 if v == 5 else 0), "nothing was held"
        peer.publish("x/open", b"yes", qos, mid=2)
        assert peer.answer(2) == (kind, 0)
    _, _, payload = watcher.message()
    assert payload == b"yes"


def test_denied_topic_hangs_up_where_it_is_told_to(emqx: Emqx, v: int) -> None:
    emqx.set(deny="x/#", deny_action="disconnect")
    with Peer(emqx.port, v) as peer:
        peer.hello("p")
        peer.publish("x/1", b"no", mid=1)
        assert peer.ended_with() == (NOT_AUTHORIZED if v == 5 else None)


@pytest.mark.parametrize("topic_filter", ["#", "+/#"])
def test_everything_is_denied_to_all_but_localhost(
        emqx: Emqx, v: int, topic_filter: str) -> None:
    with Peer(emqx.port, v) as near, Peer(emqx.port, v, source="127.0.0.2") as far:
        near.hello("near")
        far.hello("far")
        assert near.subscribe(topic_filter) == 2
        assert far.subscribe(topic_filter) == (NOT_AUTHORIZED if v == 5 else 0x80)
        assert far.subscribe("x/#") == 2


def test_packet_over_the_limit_resets(emqx: Emqx, v: int) -> None:
    emqx.set(max_packet_bytes=1000)
    with Peer(emqx.port, v) as peer:
        peer.hello("p")
        peer.publish("x/1", b"m" * 2000, mid=1)
        reset, answer = False, b""
        try:
            while (data := peer.sock.recv(100)):
                answer += data
        except ConnectionResetError:
            reset = True
        assert reset
        assert answer in ((b"", b"\xe0\x02\x95\x00") if v == 5 else (b"",))


def test_limit_is_met_before_the_packet_is_whole(emqx: Emqx) -> None:
    emqx.set(max_packet_bytes=1000)
    with Peer(emqx.port, 4) as peer:
        peer.hello("p")
        peer.send(b"\x34\xff\xff\x03")
        assert peer.ended_with() is None


def test_rate_of_a_listener_leaves_the_socket_alone(emqx: Emqx, watcher: Peer, v: int) -> None:
    with Peer(emqx.port, v) as peer:
        peer.hello("p")
        emqx.set(messages_rate=20.0)
        began_s = time.monotonic()
        for number in range(20):
            peer.publish("x/1", b"%d" % number, 0)
        for _ in range(2):  # the answer is late: behind what is read at that rate
            peer.ping(30)
        assert time.monotonic() - began_s > 0.5
    assert [watcher.message()[2] for _ in range(20)] == [b"%d" % number for number in range(20)]


def test_stalled_listener_answers_no_ping(emqx: Emqx) -> None:
    with Peer(emqx.port, 5) as peer:
        peer.hello("p")
        emqx.set(reading=False)
        with pytest.raises(TimeoutError):
            peer.ping(0.3)
        emqx.set(reading=True)
        assert peer.read() == (0xD0, b"")


def test_malformed_packet_is_closed_on(emqx: Emqx, v: int) -> None:
    with Peer(emqx.port, v) as peer:
        peer.hello("p")
        peer.send(b"\x34\x01\x00")
        assert peer.ended_with() == (0x81 if v == 5 else None)


def test_what_the_limiter_refused_is_counted(emqx: Emqx) -> None:
    emqx.set(quota_exceeded=True)
    before = counts(emqx.stats(), "over quota")
    with Peer(emqx.port, 5) as peer:
        peer.hello("p")
        peer.publish("x/1", b"m", 1)
        peer.answer(1)
    assert counts(emqx.stats(), "over quota") == before + 1
