"""gateway/clients.py: who of those that wait for room in the outbox is next, and which QoS 2
identifiers are free."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from gateway.batch import Batch
from gateway.clients import Clients, Peer
from gateway.local import Locals
from gateway.wire import Connect, Publish


class Waiting:
    """Somebody who publishes as fast as he may: `held` is never all taken."""

    def __init__(self, name: str, sizes: list[int]) -> None:
        self.session, self.will, self.peer = SimpleNamespace(client_id=name), None, name
        self.held: list[Publish] = []
        self.unacked_bytes, self.acked_s = 0, 0.0
        self.limited = self.paused = False
        self.publishes = [Publish(f"t/{name}", bytes(size), 0, False, False, 0)
                          for size in sizes]

    def __hash__(self) -> int:
        return len(self.peer)  # the order of a set would be that of the names' lengths

    def hold(self, wait: bool) -> None:
        self.paused = wait

    def go_on(self, now_s: float) -> None:
        self.paused = False


@pytest.fixture
def room() -> list[int]:
    return [0]


@pytest.fixture
def taken() -> list[str]:
    return []


@pytest.fixture
def clients(room: list[int], taken: list[str]) -> Clients:
    def intake(client_id: str, publishes: list[Publish]) -> int:
        for number, publish in enumerate(publishes):
            if len(publish.payload) > room[0]:
                return number
            room[0] -= len(publish.payload)
            taken.append(client_id)
        return len(publishes)

    committer = SimpleNamespace(hurry=lambda now_s: None, after=lambda call: None,
                                batch=SimpleNamespace(received={}))
    made = Clients(cast(Any, None), cast(Any, committer), {}, {})
    made.intake = intake
    return made


def begin(clients: Clients, *peers: Waiting) -> None:
    for peer in peers:
        clients.join(cast(Peer, peer))
        clients.take(cast(Peer, peer), peer.publishes, 0.0)


def test_those_who_wait_for_room_take_turns(clients: Clients, room: list[int], taken: list[str]
                                            ) -> None:
    begin(clients, *(Waiting(name, [1] * 20) for name in ("long name", "short", "s")))
    for _ in range(9):
        room[0] += 1
        clients.room()
    assert taken == ["long name", "short", "s"] * 3


def test_big_message_waits_for_room_and_nobody_takes_it_meanwhile(
        clients: Clients, room: list[int], taken: list[str]) -> None:
    big = Waiting("big", [5])
    begin(clients, big, Waiting("s", [1] * 20), Waiting("small", [1] * 20))
    for _ in range(7):
        room[0] += 1
        clients.room()
    assert taken[0] == "big"
    assert sorted(taken[1:]) == ["s", "small"]
    assert not big.paused
    assert big.held == []


def test_who_is_gone_is_in_nobodys_way(clients: Clients, room: list[int], taken: list[str]
                                       ) -> None:
    gone, there = Waiting("a", [3]), Waiting("b", [1])
    begin(clients, gone, there)
    clients._joined.clear()
    clients.join(cast(Peer, there))
    room[0] = 1
    clients.room()
    assert taken == ["b"]
    assert clients._waiting == {}


class Conn(Waiting):
    """A connection of the listener that only takes."""

    def __init__(self) -> None:
        super().__init__("c", [])
        self.session = None

    def write(self, data: bytes) -> None: ...

    def fail(self, error: Exception) -> None: ...


def connects(clients: Clients, *, clean: bool) -> Conn:
    conn = Conn()
    clients.received(cast(Any, conn), [Connect("c", clean, 0, None, None, None, 4)], 0.0)
    return conn


def taken_under(clients: Clients, conn: Conn, *mids: int) -> list[bytes]:
    """What the intake gets of messages that say they come again, under these identifiers."""
    taken: list[bytes] = []
    clients.intake = lambda _client, publishes: (  # type: ignore[func-returns-value]
        taken.extend(p.payload for p in publishes) or len(publishes))
    for mid in mids:
        clients.received(cast(Any, conn), [Publish("t", b"%d" % mid, 2, False, True, mid)], 0.0)
    return taken


@pytest.mark.parametrize("there", [True, False])  # when it connects anew
def test_clean_connect_frees_identifiers_of_the_session_before_it_on_disk_too(there: bool) -> None:
    asked: list[object] = []
    committer = SimpleNamespace(batch=Batch(), hurry=lambda now_s: None, after=asked.append)
    clients = Clients(Locals({}), cast(Any, committer), {}, {})
    conn = cast(Any, connects(clients, clean=False))
    for mid in (1, 2):
        clients.received(conn, [Publish("t", b"", 2, False, False, mid)], 0.0)
    if not there:
        clients.closed(conn, clean=False)
    committer.batch = Batch()
    asked.clear()
    conn = connects(clients, clean=True)
    assert committer.batch.received == {("c", 1): None, ("c", 2): None}
    assert asked
    assert taken_under(clients, conn, 1, 2) == [b"1", b"2"]


@pytest.mark.parametrize("clean", [True, False])
def test_identifiers_from_before_a_restart_are_free_and_off_the_disk_by_the_first_pubrec(
        clean: bool) -> None:
    committer = SimpleNamespace(batch=Batch(), hurry=lambda now_s: None, after=lambda _: None)
    clients = Clients(Locals({}), cast(Any, committer), {"c": {1, 2}, "never back": {3}}, {})
    conn = connects(clients, clean=clean)
    assert committer.batch.received == {("c", 1): None, ("c", 2): None, ("never back", 3): None}
    assert taken_under(clients, conn, 1, 1) == [b"1"]
    assert committer.batch.received == {("c", 1): True, ("c", 2): None, ("never back", 3): None}
