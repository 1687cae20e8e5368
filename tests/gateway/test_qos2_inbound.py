"""QoS 2 from a device to a gateway that is killed: which packet identifiers are still taken.

A restart ends the sessions of all clients, and the CONNACK says so. A client then begins anew
(3.1.1 section 3.2.2.2), under identifiers that it had used before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from gateway.outbox import Outbox
from tools.gateway_process import Gateway
from tools.judge import Subscriber
from tools.mosquitto import Mosquitto
from tools.raw_client import RawClient, publish, pubrel

MID = 9
PUBREC, PUBCOMP = (0x50, MID.to_bytes(2, "big")), (0x70, MID.to_bytes(2, "big"))
GONE, THERE = 0, 1  # session present


@pytest.fixture
def gateway(tmp_path: Path, upstream: Mosquitto) -> Iterator[Gateway]:
    with Gateway(tmp_path / "gw", upstream.port, settings="[outbox]\ncommit_ms = 0\n") as made:
        yield made


@pytest.fixture
def arrived(judge: Subscriber) -> Callable[[], list[bytes]]:
    """Waits for a last message; tells what came before it."""
    def found() -> list[bytes]:
        judge.wait_for_message("two", b"last")
        return [a.payload for a in judge.arrivals if a.topic == "two"][:-1]

    return found


def say(client: RawClient, payload: bytes, *, dup: bool = False) -> None:
    client.send(publish("two", payload, 2, MID, dup=dup))
    assert client.read() == PUBREC


def release(client: RawClient) -> None:
    client.send(pubrel(MID))
    assert client.read() == PUBCOMP


def last(client: RawClient) -> None:
    client.send(publish("two", b"last", 2, MID + 1))
    assert client.read() == (0x50, (MID + 1).to_bytes(2, "big"))


def again(gateway: Gateway) -> None:
    gateway.kill()
    gateway.start()


def left_half_way(gateway: Gateway) -> None:
    """A message whose PUBREC came and whose PUBREL never went out; then kill -9."""
    with RawClient(gateway.port) as client:
        client.open("dev", clean=False)
        say(client, b"old")
        again(gateway)


def test_message_of_a_new_session_that_was_lost_on_its_way_is_no_repetition(
        gateway: Gateway, arrived: Callable[[], list[bytes]]) -> None:
    left_half_way(gateway)
    with RawClient(gateway.port) as client:
        assert client.open("dev", clean=False) == GONE  # what it sends now does not come
    with RawClient(gateway.port) as client:
        assert client.open("dev", clean=False) == THERE
        say(client, b"new", dup=True)
        release(client)
        last(client)
    assert arrived() == [b"old", b"new"]


@pytest.mark.parametrize("lives", [1, 2])
def test_what_comes_with_dup_after_the_session_is_gone_is_taken(
        gateway: Gateway, arrived: Callable[[], list[bytes]], lives: int) -> None:
    left_half_way(gateway)
    for life in range(lives):
        with RawClient(gateway.port) as client:
            assert client.open("dev", clean=False) == GONE
            say(client, b"new %d" % life, dup=True)
            if life + 1 < lives:
                again(gateway)
    with RawClient(gateway.port) as client:
        assert client.open("dev", clean=False) == THERE
        say(client, b"new %d" % (lives - 1), dup=True)  # this is one
        release(client)
        last(client)
    assert arrived() == [b"old", *(b"new %d" % life for life in range(lives))]


def test_released_before_the_kill_or_after_it_gets_its_pubcomp(
        gateway: Gateway, arrived: Callable[[], list[bytes]]) -> None:
    left_half_way(gateway)
    with RawClient(gateway.port) as client:
        assert client.open("dev", clean=False) == GONE
        release(client)  # of what was forgotten
        say(client, b"new")
        client.send(pubrel(MID))
        again(gateway)  # whatever became of it
    with RawClient(gateway.port) as client:
        assert client.open("dev", clean=False) == GONE
        release(client)
        say(client, b"newer", dup=True)
        release(client)
        last(client)
    assert arrived() == [b"old", b"new", b"newer"]


def test_clean_session_and_takeover_begin_anew_after_a_kill_too(
        gateway: Gateway, arrived: Callable[[], list[bytes]]) -> None:
    left_half_way(gateway)
    with RawClient(gateway.port) as client, RawClient(gateway.port) as other:
        assert client.open("dev", clean=True) == GONE
        say(client, b"clean", dup=True)
        assert other.open("dev", clean=False) == GONE  # takes over a session that ends with it
        assert client.closed()
        say(other, b"kept", dup=True)
        with RawClient(gateway.port) as third:
            assert third.open("dev", clean=False) == THERE
            assert other.closed()
            say(third, b"kept", dup=True)  # one, over two connections of a session
            again(gateway)
    with RawClient(gateway.port) as client:
        assert client.open("dev", clean=True) == GONE
        say(client, b"anew", dup=True)
        last(client)
    assert arrived() == [b"old", b"clean", b"kept", b"anew"]


def test_forgotten_identifiers_are_off_the_disk_with_the_first_pubrec(gateway: Gateway) -> None:
    with RawClient(gateway.port) as client, RawClient(gateway.port) as other:
        other.open("never back", clean=False)
        say(other, b"old")
        client.open("dev", clean=False)
        for mid in range(1, 20):
            client.send(publish("two", b"old", 2, mid))
            assert client.read() == (0x50, mid.to_bytes(2, "big"))
        again(gateway)
    with RawClient(gateway.port) as client:
        client.open("dev", clean=False)
        say(client, b"new")
        gateway.kill()
    with closing(Outbox(gateway.folder / "outbox.db")) as outbox:
        assert outbox.start().received == {"dev": {MID}}
