"""What may go upstream while it is on its way to the disk, and what may not; see drain.py."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway import commit, pacer
from gateway.errors import OutboxError
from gateway.outbox import Outbox, Record
from tools.fake_broker import Behaviour, FakeBroker
from tools.gateway_thread import GatewayThread, Make
from tools.raw_client import RawClient, publish
from tools.waiting import wait_until

QUICK = "commit_ms = 0"
ROUTES = """
[[route]]
filter = "once/#"
[[route]]
filter = "#"
upgrade = 0
"""
BATCH = b'{"v":1,"life":"a","boot":7,"seq":1,"low":1,"now":5,"recs":[[4,"dht",{"t":21.5}]]}'


class Disk:
    """Holds commits up while it is told to, or refuses them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._free, self._passes = True, 0
        self._changed = threading.Condition()
        self.waiting = threading.Event()
        self.full = False
        inner = Outbox.commit

        def held(outbox: Outbox, record: Record) -> None:
            with self._changed:
                if not self._free:
                    self.waiting.set()
                assert self._changed.wait_for(lambda: self._free or self._passes, 20)
                self._passes -= not self._free
            if self.full:
                raise OutboxError("the disk is full")
            inner(outbox, record)

        monkeypatch.setattr(Outbox, "commit", held)
        monkeypatch.setattr(commit, "FAST_S", 0.0)  # in its thread: the event loop goes on
        monkeypatch.setattr(commit, "RETRY_S", 0.05)

    def hold(self) -> None:
        with self._changed:
            self._free = False

    def go_on(self) -> None:
        with self._changed:
            self._free = True
            self._changed.notify()

    def let_one_pass(self) -> None:
        with self._changed:
            self._passes += 1
            self._changed.notify()


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    made = Disk(monkeypatch)
    yield made
    made.go_on()


@pytest.fixture
def broker() -> Iterator[FakeBroker]:
    with FakeBroker() as running:
        yield running


@pytest.fixture
def gateway(make: Make, disk: Disk, broker: FakeBroker) -> GatewayThread:
    """Connected; what it says about itself is delivered, so nothing waits for the disk."""
    made = make(broker.port, outbox=QUICK, upstream='protocol = "5"', routes=ROUTES)
    made.wait_connected()
    wait_until(lambda: made.status()["delivered"] == 1)
    return made


@pytest.fixture
def client(gateway: GatewayThread) -> Iterator[RawClient]:
    with RawClient(gateway.port) as connected:
        connected.open("sender")
        yield connected


def puback(mid: int) -> tuple[int, bytes]:
    return 0x40, mid.to_bytes(2, "big")


def waits(client: RawClient) -> bool:
    """Whether nothing more is acknowledged, though the gateway is awake."""
    client.send(b"\xc0\x00")
    return client.read() == (0xD0, b"")


def sent(gateway: GatewayThread) -> int:
    """Messages that went upstream, ever; its own status is the first."""
    status = gateway.status()
    count = status["in_flight"] + status["delivered"]
    assert isinstance(count, int)
    return count


def test_qos_1_goes_out_at_once_and_is_acknowledged_after_the_disk(
        disk: Disk, broker: FakeBroker, client: RawClient) -> None:
    disk.hold()
    for mid in (1, 2):
        client.send(publish("t", b"%d" % mid, 1, mid))
        broker.wait_for(b"%d" % mid)
    assert waits(client)
    disk.go_on()
    assert [client.read(), client.read()] == [puback(1), puback(2)]


def test_qos_0_goes_out_at_once(disk: Disk, broker: FakeBroker, gateway: GatewayThread,
                                client: RawClient) -> None:
    disk.hold()
    client.send(publish("t", b"x"))
    broker.wait_for(b"x")
    disk.go_on()
    gateway.wait_for("depth", 0)


def test_qos_2_waits_for_the_disk_and_nothing_of_its_sender_overtakes_it(
        disk: Disk, broker: FakeBroker, gateway: GatewayThread, client: RawClient) -> None:
    disk.hold()
    client.send(publish("once/t", b"first", 1, 1) + publish("t", b"second", 1, 2))
    assert disk.waiting.wait(10)
    client.send(publish("t", b"third", 1, 3))
    assert waits(client)
    assert sent(gateway) == 1
    with RawClient(gateway.port) as other:
        other.open("other")
        other.send(publish("t", b"of another"))
        broker.wait_for(b"of another")
    disk.go_on()
    assert [client.read() for _ in range(3)] == [puback(1), puback(2), puback(3)]
    gateway.wait_for("depth", 0)
    assert broker.payloads() == [b"of another", b"first", b"second", b"third"]
    disk.hold()  # and the way is free again
    client.send(publish("t", b"fourth", 1, 4))
    broker.wait_for(b"fourth")
    disk.go_on()


def test_commit_under_way_frees_nothing_that_came_after_its_start(
        disk: Disk, broker: FakeBroker, gateway: GatewayThread, client: RawClient) -> None:
    disk.hold()
    client.send(publish("once/t", b"first", 1, 1))
    assert disk.waiting.wait(10)
    client.send(publish("once/t", b"second", 1, 2))
    assert waits(client)
    disk.let_one_pass()
    assert client.read() == puback(1)
    client.send(publish("t", b"third", 1, 3))
    assert waits(client)
    assert sent(gateway) == 2
    disk.go_on()
    assert [client.read(), client.read()] == [puback(2), puback(3)]
    gateway.wait_for("depth", 0)
    assert broker.payloads() == [b"first", b"second", b"third"]


def test_batch_of_the_contract_waits_for_the_disk(
        disk: Disk, broker: FakeBroker, gateway: GatewayThread, client: RawClient) -> None:
    disk.hold()
    client.send(publish("tidegate/d1/up", BATCH, 1, 1))
    assert disk.waiting.wait(10)
    client.send(publish("t", b"beside it", 1, 2))
    assert waits(client)
    assert sent(gateway) == 1
    disk.go_on()
    assert [client.read(), client.read()] == [puback(1), puback(2)]
    broker.wait_for(b"beside it")
    assert [message.topic for message in broker.received][1:] == ["tidegate/d1/data/dht", "t"]


def test_nothing_goes_out_early_while_the_disk_is_full(
        disk: Disk, broker: FakeBroker, gateway: GatewayThread, client: RawClient) -> None:
    disk.full = True
    client.send(publish("t", b"before it was known", 1, 1))
    wait_until(lambda: gateway.status()["disk"] != "ok")
    client.send(publish("t", b"after", 1, 2))
    assert waits(client)
    assert sent(gateway) == 2
    disk.full = False
    assert [client.read(), client.read()] == [puback(1), puback(2)]
    broker.wait_for(b"after")
    gateway.wait_for("depth", 0)


def test_delivered_before_a_commit_that_fails_does_not_stay_on_the_disk(
        disk: Disk, gateway: GatewayThread, client: RawClient, tmp_path: Path) -> None:
    disk.hold()
    client.send(publish("t", b"in the one that fails", 1, 1))
    assert disk.waiting.wait(10)
    client.send(publish("t", b"in the next", 1, 2))
    wait_until(lambda: gateway.status()["delivered"] == 3)
    disk.full = True
    disk.go_on()
    wait_until(lambda: gateway.status()["disk"] != "ok")
    disk.full = False
    assert [client.read(), client.read()] == [puback(1), puback(2)]
    gateway.wait_for("depth", 0)
    gateway.stop()
    outbox = Outbox(tmp_path / "gw" / "outbox.db")
    assert outbox.start().depth == 0
    outbox.close()


def test_flood_goes_out_after_its_commit(
        disk: Disk, broker: FakeBroker, gateway: GatewayThread, client: RawClient,
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pacer, "FLOOD_PER_S", 1)
    client.send(publish("t", b"shows that it is one", 1, 1))
    assert client.read() == puback(1)
    wait_until(lambda: gateway.status()["delivered"] == 2)
    disk.hold()
    client.send(publish("t", b"x", 1, 2))
    assert disk.waiting.wait(10)
    assert sent(gateway) == 2
    disk.go_on()
    assert client.read() == puback(2)
    broker.wait_for(b"x")


def test_refused_before_it_is_on_the_disk_is_set_aside_there(
        disk: Disk, broker: FakeBroker, gateway: GatewayThread, client: RawClient,
        tmp_path: Path) -> None:
    broker.behaviour = Behaviour(refuses={b"bad": 0x99})
    disk.hold()
    client.send(publish("t", b"bad", 1, 1))
    gateway.wait_for("refused", 1)
    disk.go_on()
    assert client.read() == puback(1)
    client.send(publish("t", b"good", 1, 2))
    assert client.read() == puback(2)
    gateway.wait_for("depth", 1)
    gateway.stop()
    outbox = Outbox(tmp_path / "gw" / "outbox.db")
    assert outbox.start().refused == 1
    assert outbox.reader().execute("SELECT payload FROM now").fetchall() == [(b"bad",)]
    outbox.close()


def test_cut_off_before_it_is_on_the_disk_comes_again(
        disk: Disk, broker: FakeBroker, gateway: GatewayThread, client: RawClient) -> None:
    broker.behaviour = Behaviour(closes_on={b"x"}, keeps_session=True)
    disk.hold()
    client.send(publish("t", b"x", 1, 1))
    broker.wait_for(b"x")
    broker.behaviour.closes_on = set()
    assert broker.wait_for(b"x", times=2).dup
    assert waits(client)
    disk.go_on()
    assert client.read() == puback(1)
    gateway.wait_for("depth", 0)
