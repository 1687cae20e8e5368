"""The stand-in holds QoS 2 packet identifiers as EMQX 5.8.4 does; by raw packets."""

from __future__ import annotations

import pytest
from emqx_peer import PUBACK, PUBCOMP, PUBREC, Peer, properties

from tools.emqx.process import Emqx

SUCCESS, NO_SUBSCRIBERS, IN_USE, NOT_FOUND, TOO_MANY = 0, 0x10, 0x91, 0x92, 0x93


def nothing_more(watcher: Peer) -> None:
    """Nothing but what this publishes itself comes to the watcher now."""
    watcher.publish("x/mark", b"mark", 0)
    _, _, payload = watcher.message()
    assert payload == b"mark"


def test_message_is_delivered_at_publish_and_once(emqx: Emqx, watcher: Peer, v: int) -> None:
    with Peer(emqx.port, v) as peer:
        peer.hello("p")
        peer.publish("x/1", b"one", mid=7)
        assert peer.answer(7) == (PUBREC, SUCCESS)
        assert watcher.receive() == [b"one"]  # before any PUBREL
        assert peer.release(7) == (PUBCOMP, SUCCESS)
        nothing_more(watcher)


@pytest.mark.parametrize("reconnect", [False, True])
@pytest.mark.parametrize("dup", [True, False])
def test_held_identifier_again_is_in_use_and_not_delivered(
        emqx: Emqx, watcher: Peer, v: int, dup: bool, reconnect: bool) -> None:
    peer = Peer(emqx.port, v)
    peer.hello("p")
    peer.publish("x/1", b"one", mid=7)
    assert peer.answer(7) == (PUBREC, SUCCESS)
    if reconnect:
        peer.close()
        peer = Peer(emqx.port, v)
        assert peer.hello("p")[0] == 1, "session present"
    peer.publish("x/1", b"one" if dup else b"another", mid=7, dup=dup)
    assert peer.answer(7) == (PUBREC, IN_USE if v == 5 else SUCCESS)
    assert watcher.receive() == [b"one"]
    assert peer.release(7) == (PUBCOMP, SUCCESS)
    nothing_more(watcher)
    peer.close()


def test_released_identifier_takes_a_new_message(emqx: Emqx, watcher: Peer, v: int) -> None:
    with Peer(emqx.port, v) as peer:
        peer.hello("p")
        for payload in (b"one", b"two"):
            peer.publish("x/1", payload, mid=7)
            assert peer.answer(7) == (PUBREC, SUCCESS)
            assert peer.release(7) == (PUBCOMP, SUCCESS)
            assert watcher.receive() == [payload]


def test_pubrel_of_an_unknown_one_is_not_found(emqx: Emqx, v: int) -> None:
    with Peer(emqx.port, v) as peer:
        peer.hello("p")
        assert peer.release(9) == (PUBCOMP, NOT_FOUND if v == 5 else SUCCESS)


def test_identifier_is_held_until_the_timeout(emqx: Emqx, watcher: Peer, v: int) -> None:
    with Peer(emqx.port, v) as peer:
        peer.hello("p")
        peer.publish("x/1", b"one", mid=7)
        peer.answer(7)
        emqx.set(await_rel_timeout_s=0.0)
        peer.publish("x/1", b"two", mid=7, dup=True)
        assert peer.answer(7) == (PUBREC, SUCCESS)
        assert watcher.receive(2) == [b"one", b"two"]


def test_one_more_than_may_be_held_ends_the_connection(emqx: Emqx, watcher: Peer, v: int) -> None:
    emqx.set(max_awaiting_rel=3)
    peer = Peer(emqx.port, v)
    peer.hello("p")
    for mid in (1, 2, 3):
        peer.publish("x/1", b"%d" % mid, mid=mid)
        assert peer.answer(mid) == (PUBREC, SUCCESS)
    for mid in (4, 2):  # one that is held already is no better
        peer.publish("x/1", b"over", mid=mid, dup=mid == 2)
        assert peer.ended_with() == (TOO_MANY if v == 5 else None)
        peer.close()
        peer = Peer(emqx.port, v)
        assert peer.hello("p")[0] == 1
    assert peer.release(2) == (PUBCOMP, SUCCESS)
    peer.publish("x/1", b"4", mid=4)
    assert peer.answer(4) == (PUBREC, SUCCESS)
    assert watcher.receive(4) == [b"1", b"2", b"3", b"4"]
    nothing_more(watcher)
    peer.close()


def test_default_holds_a_hundred(emqx: Emqx) -> None:
    with Peer(emqx.port, 5) as peer:
        peer.hello("p")
        peer.send(b"".join(peer.pack("x/1", b"m", mid=mid) for mid in range(1, 102)))
        assert peer.ended_with() == TOO_MANY
    assert emqx.stats()["sessions"]["p"]["held"] == 100


def test_no_subscriber_is_said_at_5(emqx: Emqx, v: int) -> None:
    with Peer(emqx.port, v) as peer:
        peer.hello("p")
        for qos, kind in ((1, PUBACK), (2, PUBREC)):
            peer.publish("nobody", b"m", qos, mid=qos)
            assert peer.answer(qos) == (kind, NO_SUBSCRIBERS if v == 5 else SUCCESS)


@pytest.mark.parametrize(("asked", "window"), [(0, 32), (10, 10), (1000, 32)])
def test_window_is_the_smaller_receive_maximum(emqx: Emqx, asked: int, window: int) -> None:
    with Peer(emqx.port, 5) as peer:
        said = properties(peer.hello("p", receive_maximum=asked))
        assert said[0x21] == window
        assert said[0x27] == 1_048_576
        assert 0x24 not in said, "Maximum QoS 2 is said by silence"


@pytest.mark.parametrize("asked", [0, 5])
def test_no_more_than_the_window_is_sent(emqx: Emqx, asked: int) -> None:
    with Peer(emqx.port, 5) as reader, Peer(emqx.port, 5) as peer:
        reader.hello("r", receive_maximum=asked)
        reader.subscribe("x/#")
        peer.hello("p")
        for number in range(40):
            peer.publish("x/1", b"%d" % number, 1, mid=1)
            assert peer.answer(1) == (PUBACK, SUCCESS)
        window = asked or 32
        assert emqx.stats()["sessions"]["r"]["flying"] == window
        assert emqx.stats()["sessions"]["r"]["queue"] == 40 - window
        for number in range(40):
            _, mid, payload = reader.message()
            assert payload == b"%d" % number
            reader.send(b"\x40\x02" + mid.to_bytes(2, "big"))


def test_emqx_6_2_swallows_what_comes_with_dup_and_was_never_there(
        emqx: Emqx, watcher: Peer, v: int) -> None:
    emqx.set(acks_unknown_dup=True)
    with Peer(emqx.port, v) as peer:
        peer.hello("p")
        peer.publish("x/1", b"gone", mid=7, dup=True)
        assert peer.answer(7) == (PUBREC, SUCCESS)
        assert peer.release(7) == (PUBCOMP, SUCCESS)
        peer.publish("x/1", b"here", mid=8)
        assert peer.answer(8) == (PUBREC, SUCCESS)
        peer.publish("x/1", b"here", mid=8, dup=True)
        assert peer.answer(8) == (PUBREC, SUCCESS), "where 5.8 says 0x91"
        peer.publish("x/1", b"other", mid=8)
        assert peer.answer(8) == (PUBREC, IN_USE if v == 5 else SUCCESS)
    assert watcher.receive() == [b"here"]
    nothing_more(watcher)
