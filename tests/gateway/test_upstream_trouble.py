"""A broker in trouble is not a bad message: nothing is set aside for it, and all arrives later."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from gateway import trouble
from tools.fake_broker import Behaviour, FakeBroker
from tools.gateway_thread import GatewayThread, Make
from tools.raw_client import RawClient, publish
from tools.waiting import wait_until

QUICK = "commit_ms = 0"
V5 = 'protocol = "5"'


def often(*codes: int) -> list[Any]:
    """The first in every run, the others among the slow tests."""
    return [codes[0], *(pytest.param(code, marks=pytest.mark.slow) for code in codes[1:])]


@pytest.fixture(params=["3.1.1", "5"])
def broker(request: pytest.FixtureRequest) -> Iterator[FakeBroker]:
    with FakeBroker(v5=request.param == "5") as running:
        yield running


@pytest.fixture
def broker_5() -> Iterator[FakeBroker]:
    with FakeBroker() as running:
        yield running


def start(make: Make, broker: FakeBroker, more: str = "") -> GatewayThread:
    gateway = make(broker.port, outbox=QUICK, upstream=(V5 if broker.v5 else "") + "\n" + more)
    gateway.wait_connected()
    return gateway


def send(gateway: GatewayThread, *payloads: bytes) -> None:
    """Publish at QoS 1, each on a topic of its own, and wait until all is acknowledged."""
    with RawClient(gateway.port) as client:
        client.open("sender")
        for mid, payload in enumerate(payloads, 1):
            client.send(publish(f"t/{payload.decode()}", payload, 1, mid))
        for _ in payloads:
            assert client.read()


def numbers(count: int) -> list[bytes]:
    return [b"%d" % n for n in range(count)]


@pytest.mark.parametrize("code", often(0x97, 0x80, 0x83, 0x89))
def test_code_that_passes_sets_nothing_aside(make: Make, broker_5: FakeBroker, code: int) -> None:
    payloads = numbers(60)
    broker_5.behaviour = Behaviour(refuses=dict.fromkeys(payloads[10:50], code))
    gateway = start(make, broker_5)
    send(gateway, *payloads)
    broker_5.wait_for(b"59")  # others pass
    wait_until(lambda: gateway.status()["upstream_notices"])
    broker_5.behaviour = Behaviour()
    gateway.wait_for("depth", 0, 30)
    status = gateway.status()
    assert (status["refused"], status["in_flight"], status["upstream_notices"]) == (0, 0, [])


def test_topic_keeps_its_order_while_it_is_refused(make: Make, broker_5: FakeBroker) -> None:
    broker_5.behaviour = Behaviour(refuses={b"1": 0x97})
    gateway = start(make, broker_5)
    with RawClient(gateway.port) as client:
        client.open("sender")
        for mid in range(1, 10):
            client.send(publish("one", b"%d" % mid, 1, mid))
            assert client.read()
            broker_5.wait_for(b"1")
    broker_5.behaviour = Behaviour()
    gateway.wait_for("depth", 0, 20)
    first = [p for p in dict.fromkeys(broker_5.payloads()) if p != b"online"]
    assert first == [b"%d" % n for n in range(1, 10)]


@pytest.mark.parametrize("code", often(0x8B, 0x89, 0x8E, 0x97, 0x98, 0x9C, 0x9D))
def test_disconnect_with_a_code_of_its_own_blames_nobody(make: Make, broker_5: FakeBroker,
                                                         code: int) -> None:
    broker_5.behaviour = Behaviour(disconnects_on={b"3": code}, keeps_session=True)
    gateway = start(make, broker_5)
    send(gateway, *numbers(8))
    broker_5.wait_for(b"3", 30, times=4)
    assert gateway.status()["refused"] == 0
    assert not gateway.bridge.drain.trouble._caution.active  # type: ignore[union-attr]
    broker_5.behaviour = Behaviour(keeps_session=True)
    gateway.wait_for("depth", 0, 40)
    assert gateway.status()["refused"] == 0


def test_broker_that_hangs_up_on_every_publish_blames_nobody(make: Make,
                                                             broker: FakeBroker) -> None:
    broker.behaviour = Behaviour(hangs_up=True)
    gateway = start(make, broker)
    send(gateway, *numbers(30))
    broker.wait_for_links(10, 40)
    assert gateway.status()["refused"] == 0
    broker.behaviour = Behaviour()
    gateway.wait_for("depth", 0, 60)
    assert gateway.status()["refused"] == 0


@pytest.mark.slow
def test_one_bad_message_every_so_often_does_not_stop_the_rest(make: Make,
                                                               broker: FakeBroker) -> None:
    bad = [b"bad%d" % n for n in range(4)]
    broker.behaviour = Behaviour(closes_on=set(bad))
    gateway = start(make, broker)
    longest_s = 0.0
    with RawClient(gateway.port) as client:
        client.open("sender")
        for number in range(240):
            if number % 60 == 10:
                client.send(publish(f"bad/{number}", bad[number // 60], 1, 1000 + number))
                assert client.read()
            sent_s = time.monotonic()
            client.send(publish("good", b"%d" % number, 1, number + 1))
            assert client.read()
            broker.wait_for(b"%d" % number, 20)
            longest_s = max(longest_s, time.monotonic() - sent_s)
    gateway.wait_for("refused", 4, 60)
    gateway.wait_for("depth", 4, 20)
    assert longest_s < 15
    assert set(broker.payloads()) == {*bad, *numbers(240)}


@pytest.mark.slow
def test_pubrel_that_a_broker_closes_over_is_given_up(make: Make, broker: FakeBroker) -> None:
    """rumqttd: 1 of 50 arrived in 120 s."""
    broker.behaviour = Behaviour(closes_on_release=True, forgets_release=True, keeps_session=True)
    gateway = start(make, broker)
    send(gateway, *numbers(8))
    wait_until(lambda: len(broker.completed) >= 5, 20)
    broker.behaviour = Behaviour(closes_on_release=True, keeps_session=True)
    send(gateway, *(b"%d" % n for n in range(8, 50)))
    for payload in numbers(50):
        broker.wait_for(payload, 40)
    gateway.wait_for("depth", 0, 60)
    status = gateway.status()
    assert status["refused"] == 0
    assert 0 < status["releases_given_up"] <= 8


def test_size_that_stands_is_believed(make: Make, broker_5: FakeBroker,
                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trouble, "SIZE_STANDS_S", 1.0)
    broker_5.behaviour = Behaviour(properties=b"\x27\x00\x00\x00\xc8")
    gateway = start(make, broker_5)
    with RawClient(gateway.port) as client:
        client.open("sender")
        client.send(publish("t", bytes(300), 1, 1))
        assert client.read()
    gateway.wait_for("refused", 1, 20)
