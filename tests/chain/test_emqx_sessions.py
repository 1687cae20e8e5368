"""The stand-in keeps, takes over, ends and forgets sessions as EMQX 5.8.4 does; raw packets."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from emqx_peer import PUBCOMP, PUBREC, Peer
from test_emqx_qos2 import nothing_more

from tools.emqx.process import Emqx

TAKEN_OVER, ADMINISTRATIVE = 0x8E, 0x98
WILL = ("x/will", b"dead")


def present(emqx: Emqx, v: int, client_id: str = "p") -> int:
    with Peer(emqx.port, v) as peer:
        return peer.hello(client_id)[0]


def gone(emqx: Emqx, client_id: str = "p") -> None:
    """Wait until the stand-in has seen the end of a connection."""
    deadline_s = time.monotonic() + 10
    while emqx.stats()["sessions"].get(client_id, {}).get("connected"):
        assert time.monotonic() < deadline_s


def test_session_outlives_its_connection(emqx: Emqx, v: int) -> None:
    assert present(emqx, v) == 0
    assert present(emqx, v) == 1


def test_clean_start_ends_the_session_of_before(emqx: Emqx, v: int) -> None:
    with Peer(emqx.port, v) as peer:
        peer.hello("p")
        peer.publish("x/1", b"one", mid=7)
        assert peer.answer(7)[0] == PUBREC
    with Peer(emqx.port, v) as peer:
        assert peer.hello("p", clean=True)[0] == 0
        assert peer.release(7) == (PUBCOMP, 0x92 if v == 5 else 0)


def test_session_expires(emqx: Emqx) -> None:
    with Peer(emqx.port, 5) as peer:
        peer.hello("p", expiry_s=0)
    gone(emqx)
    assert present(emqx, 5) == 0


def test_session_of_3_expires_by_the_brokers_own_setting(emqx: Emqx) -> None:
    emqx.set(session_expiry_s=0.0)
    with Peer(emqx.port, 4) as peer:
        peer.hello("p")
    gone(emqx)
    assert present(emqx, 4) == 0


def test_what_comes_meanwhile_is_kept_for_a_session_up_to_its_limit(emqx: Emqx, v: int) -> None:
    emqx.set(max_mqueue_len=3)
    with Peer(emqx.port, v) as reader:
        reader.hello("r")
        reader.subscribe("x/#")
    gone(emqx, "r")
    with Peer(emqx.port, v) as peer:
        peer.hello("p")
        for number in range(5):
            peer.publish("x/1", b"%d" % number, mid=number + 1)
            assert peer.answer(number + 1) == (PUBREC, 0)
    with Peer(emqx.port, v) as reader:
        assert reader.hello("r")[0] == 1
        assert reader.receive(3) == [b"2", b"3", b"4"], "the oldest went"


@pytest.mark.parametrize("received", [False, True])
def test_what_is_on_its_way_to_a_client_comes_again(emqx: Emqx, v: int, received: bool) -> None:
    with Peer(emqx.port, v) as reader:
        reader.hello("r")
        reader.subscribe("x/#")
        reader.publish("x/1", b"one", 2, mid=1)
        kinds = {reader.read(), reader.read()}
        mid = next(body[5:7] for head, body in filter(None, kinds) if head >> 4 == 3)
        if received:
            reader.send(b"\x50\x02" + mid)
            assert reader.read() == (0x62, mid)
    with Peer(emqx.port, v) as reader:
        reader.hello("r")
        if received:
            assert reader.read() == (0x62, mid)
        else:
            head, again, payload = reader.message()
            assert (head & 8, again.to_bytes(2, "big"), payload) == (8, mid, b"one")


def test_second_connection_takes_the_session_over(emqx: Emqx, watcher: Peer, v: int) -> None:
    with Peer(emqx.port, v) as first, Peer(emqx.port, v) as second:
        first.hello("p", will=WILL)
        first.publish("x/1", b"one", mid=7)
        assert first.answer(7)[0] == PUBREC
        assert second.hello("p")[0] == 1
        assert first.ended_with() == (TAKEN_OVER if v == 5 else None)
        assert second.release(7) == (PUBCOMP, 0), "with what the first had sent"
        assert watcher.receive() == [b"one"]
        nothing_more(watcher)


def test_kick_ends_connection_and_session_without_will(
        emqx: Emqx, watcher: Peer, v: int) -> None:
    with Peer(emqx.port, v) as peer:
        peer.hello("p", will=WILL)
        assert emqx.order("kick", client="p") == {"was_there": True}
        assert peer.ended_with() == (ADMINISTRATIVE if v == 5 else None)
    assert present(emqx, v) == 0
    nothing_more(watcher)


def test_will_is_published_for_one_that_vanishes_and_not_for_one_that_says_so(
        emqx: Emqx, watcher: Peer, v: int) -> None:
    with Peer(emqx.port, v) as peer:
        peer.hello("p", will=("x/will", b"not this"))
        peer.quit()
    gone(emqx)
    with Peer(emqx.port, v) as peer:
        peer.hello("p", will=WILL)
    assert watcher.message()[2] == b"dead"


def test_silent_client_is_closed_after_its_keepalive(emqx: Emqx, watcher: Peer) -> None:
    with Peer(emqx.port, 5) as peer:
        peer.hello("p", keepalive_s=1, will=WILL)
        assert peer.ended_with() == 0x8D
        assert watcher.message()[2] == b"dead"


def test_it_stops_without_disconnect_and_forgets_its_sessions(tmp_path: Path) -> None:
    with Emqx(tmp_path) as emqx:
        for end in (emqx.stop, emqx.kill):
            with Peer(emqx.port, 5) as peer:
                assert peer.hello("p")[0] == 0
                peer.publish("x/1", b"one", mid=7)
                assert peer.answer(7)[0] == PUBREC
                end()
                assert peer.ended_with() is None
            emqx.start()
    log = (tmp_path / "program.log").read_text()
    assert "Traceback" not in log


@pytest.mark.parametrize("who", ["p", ""])
def test_session_can_be_forgotten_without_a_word(emqx: Emqx, v: int, who: str) -> None:
    with Peer(emqx.port, v) as peer:
        peer.hello("p")
        emqx.order("forget", client=who)
        assert peer.ended_with() is None
    assert present(emqx, v) == 0


def test_connections_can_be_cut_with_sessions_kept(emqx: Emqx, v: int) -> None:
    with Peer(emqx.port, v) as peer:
        peer.hello("p")
        emqx.order("cut")
        assert peer.ended_with() is None
    assert present(emqx, v) == 1


def test_retained_message_comes_to_a_later_subscriber(emqx: Emqx, v: int) -> None:
    with Peer(emqx.port, v) as peer:
        peer.hello("p")
        said = bytearray(peer.pack("r/1", b"kept", 1, mid=1))
        said[0] |= 1
        peer.send(bytes(said))
        peer.answer(1)
        peer.subscribe("r/#")
        head, _, payload = peer.message()
        assert (head & 1, payload) == (1, b"kept")


def test_broker_that_delivers_at_pubrel_can_be_had_too(emqx: Emqx, watcher: Peer) -> None:
    emqx.set(deliver_at_pubrel=True)
    with Peer(emqx.port, 5) as peer:
        peer.hello("p")
        peer.publish("x/1", b"one", mid=7)
        assert peer.answer(7) == (PUBREC, 0)
        nothing_more(watcher)
        peer.release(7)
        assert watcher.receive() == [b"one"]


def test_order_that_is_wrong_is_refused(emqx: Emqx) -> None:
    for do, more in (("dance", {}), ("set", {"max_inflight": "many"}), ("set", {"nothing": 1})):
        with pytest.raises(ValueError, match=r"no such order|not like|no setting"):
            emqx.order(do, **more)
