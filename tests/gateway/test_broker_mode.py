"""`[broker]`: messages of a broker that already stands, and what such a broker can lose."""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from click.testing import CliRunner
from test_early import Disk, puback

from gateway.cli import cli
from gateway.links import BrokerConfig
from gateway.local_broker import LocalBroker
from gateway.metrics import render
from gateway.outbox import Outbox
from gateway.wire import Publish
from tools.fake_broker import FakeBroker
from tools.gateway_thread import GatewayThread, Make
from tools.judge import Producer, Subscriber
from tools.lifetime import Closeable
from tools.mosquitto import Mosquitto
from tools.ports import HOST, free_port
from tools.raw_client import RawClient, packet, publish, pubrel
from tools.waiting import wait_until

BATCH = {"v": 1, "life": "0a0b0c0d", "boot": 1, "seq": 1, "low": 1, "drop": 0, "now": 1000,
         "recs": [[900, "air", {"t": 1.5}], [950, "air", {"t": 1.6}]]}


@pytest.fixture
def house(tmp_path: Path) -> Iterator[Mosquitto]:
    """The broker that already stands."""
    with Mosquitto(tmp_path / "house", persistence=True) as broker:
        yield broker


def behind(make: Make, upstream: Mosquitto, house: Mosquitto, **more: str) -> GatewayThread:
    gateway = make(upstream.port, name="behind",
                   routes=f'[broker]\nurl = "mqtt://{HOST}:{house.port}"\n', **more)
    gateway.wait_connected()
    assert gateway.bridge is not None
    link = gateway.bridge.local_broker
    assert link is not None
    wait_until(lambda: link.link.connected, 10, "the local broker")
    return gateway


def test_every_qos_of_a_local_broker_arrives_upstream_at_its_routes(
        make: Make, upstream: Mosquitto, house: Mosquitto, judge: Subscriber) -> None:
    gateway = behind(make, upstream, house)
    with Producer(house.port, "thing") as thing:
        for qos in (0, 1, 2):
            thing.publish(f"thing/{qos}", b"%d" % qos, qos=qos)
        thing.wait_for_acknowledgements()
    for qos in (0, 1, 2):
        assert judge.wait_for_message(f"thing/{qos}", b"%d" % qos).qos == 2
    gateway.wait_for("depth", 0)
    assert gateway.status()["counts"]["received"] == 3


def test_a_contract_device_behind_a_local_broker_gets_its_acknowledgement(
        make: Make, upstream: Mosquitto, house: Mosquitto, judge: Subscriber) -> None:
    gateway = behind(make, upstream, house)
    with Subscriber(house.port, client_id="device") as device, \
            Producer(house.port, "dev1") as dev1:
        for _ in range(2):  # the second is a duplicate, answered all the same
            dev1.publish("tidegate/dev1/up", json.dumps(BATCH).encode(), qos=0)
        wait_until(lambda: sum(a.topic == "tidegate/dev1/down/ack" for a in device.arrivals) == 2,
                   10, "two acknowledgements")
        last = [a for a in device.arrivals if a.topic == "tidegate/dev1/down/ack"][-1]
    assert json.loads(last.payload)["seq"] == 2
    gateway.wait_for("depth", 0)
    assert [(r.device, r.seq) for r in judge.records()] == [("dev1", 1), ("dev1", 2)]
    counts = gateway.status()["counts"]
    assert counts["received"] == 2  # the acknowledgements did not come back as new
    assert counts["duplicates"] == 2


def test_a_local_broker_keeps_what_a_stopped_gateway_has_not_taken(
        make: Make, upstream: Mosquitto, house: Mosquitto, judge: Subscriber) -> None:
    gateway = behind(make, upstream, house)
    gateway.stop()
    with Producer(house.port, "thing") as thing:
        for number in range(50):
            thing.publish("kept", b"%d" % number, qos=1)
        thing.wait_for_acknowledgements()
    behind(make, upstream, house)
    judge.wait_for_message("kept", b"49")
    wait_until(lambda: sum(a.topic == "kept" for a in judge.arrivals) >= 50, 10, "all 50")
    assert [a.payload for a in judge.arrivals if a.topic == "kept"] == [
        b"%d" % number for number in range(50)]


def test_what_a_killed_local_broker_acknowledged_was_never_ours(
        make: Make, upstream: Mosquitto, tmp_path: Path, judge: Subscriber) -> None:
    """Why the listener is the better way in: this broker promised, and forgot."""
    with Mosquitto(tmp_path / "forgetful", persistence=False) as house:
        behind(make, upstream, house).stop()
        with Producer(house.port, "thing") as thing:
            for number in range(20):
                thing.publish("forgotten", b"%d" % number, qos=1)
            thing.wait_for_acknowledgements()
        house.kill()
        house.start()
        behind(make, upstream, house)
        with Producer(house.port, "thing") as thing:
            thing.publish("marker", b"end", qos=1)
            thing.wait_for_acknowledgements()
        judge.wait_for_message("marker", b"end")
    assert not [a for a in judge.arrivals if a.topic == "forgotten"]


class Link(RawClient):
    """The broker's end of one connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self._rest = sock, b""


class Script(Closeable):
    """A local broker that says what a test wants."""

    def __init__(self) -> None:
        self._listener = socket.create_server((HOST, 0))
        self._listener.settimeout(20.0)
        self.port: int = self._listener.getsockname()[1]
        self._links: list[Link] = []

    def accept(self, *, present: bool, v5: bool = False) -> Link:
        """Take the next CONNECT, say whether there is a session."""
        link = Link(self._listener.accept()[0])
        self._links.append(link)
        connect = link.read()
        assert connect is not None
        assert connect[0] == 0x10
        link.send(packet(0x20, bytes([present, 0] + [0] * v5)))
        return link

    def begin(self, *, present: bool = False) -> Link:
        """The same, and take a SUBSCRIBE."""
        link = self.accept(present=present)
        assert subscribed(link)
        link.send(packet(0x90, b"\0\1\2"))
        return link

    def close(self) -> None:
        """Close all of it."""
        self._listener.close()
        for link in self._links:
            link.close()


def subscribed(link: Link) -> bool:
    """Whether the gateway's next packet is a SUBSCRIBE."""
    packet_ = link.read()
    return packet_ is not None and packet_[0] == 0x82


@pytest.fixture
def script() -> Iterator[Script]:
    with Script() as broker:
        yield broker


@pytest.fixture
def broker() -> Iterator[FakeBroker]:
    """The upstream, where only what arrives counts."""
    with FakeBroker(v5=False) as running:
        yield running


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Iterator[Disk]:
    made = Disk(monkeypatch)
    yield made
    made.go_on()


def beside(make: Make, upstream_port: int, script: Script, more: str = "") -> GatewayThread:
    """A gateway that subscribes to the script."""
    return make(upstream_port, outbox="commit_ms = 0",
                routes=f'[broker]\nurl = "mqtt://{HOST}:{script.port}"\n{more}')


def send_twice(link: Link, payload: bytes, *, dup: bool = False) -> None:
    """One message at QoS 2 under identifier 1, whole."""
    link.send(publish("a", payload, 2, 1, dup=dup))
    assert link.read() == (0x50, b"\0\1")
    link.send(pubrel(1))
    assert link.read() == (0x70, b"\0\1")


def acknowledged_at_once(link: Link) -> bool:
    """Whether the gateway's next packet answers what needs no disk: it has read all before it."""
    link.send(publish("tidegate/gateway/other/status", b"online", 1, 999))
    return link.read() == puback(999)


def test_identifiers_of_a_session_that_the_local_broker_lost_are_free(
        make: Make, broker: FakeBroker, script: Script) -> None:
    gateway = beside(make, broker.port, script)
    link = script.begin()
    link.send(publish("a", b"first", 2, 1))
    assert link.read() == (0x50, b"\0\1")  # and no PUBREL: the broker crashes
    link.close()
    send_twice(script.begin(), b"second")
    broker.wait_for(b"second")
    assert broker.payloads() == [b"first", b"second"]
    gateway.stop()
    outbox = Outbox(gateway.folder / "outbox.db")
    try:
        assert outbox.start().received == {}
    finally:
        outbox.close()


def test_identifiers_of_a_session_that_was_lost_while_the_gateway_was_down_are_free(
        make: Make, broker: FakeBroker, script: Script) -> None:
    gateway = beside(make, broker.port, script)
    link = script.begin()
    link.send(publish("a", b"first", 2, 1))
    assert link.read() == (0x50, b"\0\1")
    broker.wait_for(b"first")
    gateway.stop()
    beside(make, broker.port, script)
    send_twice(script.begin(), b"second", dup=True)  # it was sent before, on a link that broke
    broker.wait_for(b"second")


def test_nothing_is_asked_of_a_new_session_before_the_old_one_is_forgotten_on_disk(
        make: Make, broker: FakeBroker, script: Script, disk: Disk) -> None:
    gateway = beside(make, broker.port, script)
    gateway.wait_connected()
    link = script.begin()
    link.send(publish("a", b"first", 2, 1))
    assert link.read() == (0x50, b"\0\1")
    broker.wait_for(b"first")
    gateway.wait_for("depth", 0)
    disk.hold()
    link.close()
    link = script.accept(present=False)
    assert disk.waiting.wait(10)
    assert acknowledged_at_once(link)
    disk.go_on()
    assert subscribed(link)


@pytest.mark.parametrize("qos", [1, 2])
def test_acknowledgement_of_a_lost_link_is_not_said_on_the_next(
        make: Make, script: Script, disk: Disk, qos: int) -> None:
    gateway = beside(make, free_port(), script)
    link = script.begin()
    disk.hold()
    link.send(publish("a", b"first", qos, 1))
    assert disk.waiting.wait(10)
    link.close()
    link = script.accept(present=True)  # of a broker that forgot that it sent `first`
    link.send(publish("a", b"second", 1, 1))
    assert acknowledged_at_once(link)
    before = gateway.status()["commits"]
    disk.let_one_pass()  # `first` is on disk, `second` is not
    gateway.wait_for("commits", before + 1)
    assert acknowledged_at_once(link)
    disk.go_on()
    assert link.read() == puback(1)
    assert gateway.status()["counts"]["stored"] == 2


def test_link_that_was_not_read_for_the_disk_is_read_when_it_is_new(
        make: Make, script: Script, disk: Disk) -> None:
    gateway = beside(make, free_port(), script)
    link = script.begin()
    disk.hold()
    link.send(publish("tidegate/dev1/up", json.dumps(BATCH).encode()))
    assert disk.waiting.wait(10)
    link.send(publish("a", bytes(2_000_000), 1, 1))  # more than may be unacknowledged
    assert gateway.bridge is not None
    house = gateway.bridge.local_broker
    assert house is not None
    wait_until(lambda: house.paused, 10.0, "not read any more")
    link.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    link.close()
    disk.let_one_pass()  # dev1 is told so, and that shows that the link is no more
    link = script.begin()
    assert acknowledged_at_once(link)


def test_link_found_dead_by_an_acknowledgement_is_lost_after_all_it_brought() -> None:
    """Else what it brought would be acknowledged on the next one."""
    said: list[str] = []
    house = LocalBroker(BrokerConfig(client_id="g"), cast(Any, SimpleNamespace(
        join=lambda peer: None, take=lambda peer, publishes, now_s: said.append("take"),
        lost=lambda peer: said.append("lost"))), set())
    house.link = cast(Any, SimpleNamespace(connected=True,
                                           write=lambda parts: house.upstream_lost(True)))
    house.upstream_publishes([Publish("tidegate/gateway/g/status", b"online", 1, False, False, 1),
                              Publish("a", b"new", 1, False, False, 2)])
    assert said == ["take", "lost"]


def test_retained_messages_come_once_but_none_is_taken_for_had_that_was_not(
        make: Make, broker: FakeBroker, script: Script) -> None:
    beside(make, broker.port, script)
    link = script.begin(present=True)  # the session of an earlier run
    link.send(publish("a", b"had", 1, 1, retain=True))
    assert link.read() == puback(1)
    link.send(publish("a", b"was sent to the earlier run", 1, 2, retain=True, dup=True))
    assert link.read() == puback(2)
    link.close()
    link = script.begin()  # a new session; its retained messages are still to come
    assert acknowledged_at_once(link)
    link.close()
    link = script.accept(present=True)
    link.send(publish("a", b"new", 1, 3, retain=True))
    assert link.read() == puback(3)
    broker.wait_for(b"new")
    assert broker.payloads() == [b"was sent to the earlier run", b"new"]


def test_subscription_that_was_never_answered_is_made_again(make: Make, script: Script) -> None:
    beside(make, free_port(), script)
    link = script.accept(present=False)
    assert subscribed(link)
    link.close()
    script.begin(present=True).close()


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_refused_subscription_is_named_in_the_log(make: Make, script: Script, protocol: str,
                                                  caplog: pytest.LogCaptureFixture) -> None:
    beside(make, free_port(), script, f'protocol = "{protocol}"\nfilters = ["good/#", "bad/#"]\n')
    link = script.accept(present=False, v5=protocol == "5")
    assert subscribed(link)
    link.send(packet(0x90, b"\0\1" + (b"\0" if protocol == "5" else b"") + b"\x02\x80"))
    wait_until(lambda: "filter=bad/#" in caplog.text, 10.0, "the filter in the log")
    assert "good/#" not in caplog.text


def metrics(status: dict[str, Any]) -> list[str]:
    health = cast(Any, SimpleNamespace(at_risk=lambda: []))
    return [line for line in render(status, health).decode().splitlines() if "broker" in line
            and not line.startswith("#")]


def test_local_broker_is_told_and_is_no_device(make: Make, upstream: Mosquitto, house: Mosquitto
                                               ) -> None:
    gateway = behind(make, upstream, house)
    status = gateway.status()
    assert status["broker"] == "connected"
    assert status["connected_devices"] == 0
    assert metrics(status) == ["tidegate_broker_connected 1.0"]
    house.stop()
    wait_until(lambda: gateway.status()["broker"].startswith("away: "), 10.0, "away")
    text = ""

    def told() -> bool:
        nonlocal text
        text = CliRunner().invoke(cli, ["status", "-c", str(gateway.folder / "tidegate.toml")],
                                  catch_exceptions=False).stdout
        return "broker     away: " in text  # not in the middle of a try

    wait_until(told, 10.0, "what `tidegate status` says")
    assert " (1 connects)\n" in text
    assert "devices    0 connected\n" in text
    assert metrics(gateway.status()) == ["tidegate_broker_connected 0.0"]
    assert gateway.status()["at_risk"] == []


def test_gateway_without_a_local_broker_says_nothing_of_one(gateway: GatewayThread) -> None:
    assert gateway.status()["broker"] is None
    assert metrics(gateway.status()) == []


def test_broker_that_does_all_the_talking_hears_of_us(
        make: Make, upstream: Mosquitto, house: Mosquitto) -> None:
    gateway = make(upstream.port, name="chatty", routes=(
        f'[broker]\nurl = "mqtt://{HOST}:{house.port}"\nkeepalive_s = 5\n'))
    gateway.wait_for("broker", "connected")
    with RawClient(house.port) as talker:
        talker.open("talker")
        until_s = time.monotonic() + 18  # the broker hangs up after 7.5 s, looks each 5
        while time.monotonic() < until_s:
            talker.send(publish("t", b"x"))  # at QoS 0, which has no answer
            time.sleep(0.5)
    assert gateway.status()["broker_connects"] == 1
