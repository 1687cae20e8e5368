"""What an upstream says it can take is obeyed, and what it cannot take stops nothing else."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from gateway import trouble
from tools.fake_broker import Behaviour, FakeBroker
from tools.gateway_thread import GatewayThread, Make
from tools.judge import Subscriber
from tools.mosquitto import Mosquitto, client_command
from tools.raw_client import RawClient, publish
from tools.waiting import wait_until

QUICK = "commit_ms = 0"
V5 = 'protocol = "5"'
RECEIVE_MAXIMUM_5 = b"\x21\x00\x05"
MAXIMUM_QOS_0, MAXIMUM_QOS_1 = b"\x24\x00", b"\x24\x01"
NO_RETAIN = b"\x25\x00"
PACKETS_TO_200 = b"\x27\x00\x00\x00\xc8"
KEEP_ALIVE_1 = b"\x13\x00\x01"
FORGETS = 1  # connection of a new outbox, which throws away what the broker holds of us


@pytest.fixture
def broker() -> Iterator[FakeBroker]:
    with FakeBroker() as running:
        yield running


@pytest.fixture
def old_broker() -> Iterator[FakeBroker]:
    with FakeBroker(v5=False) as running:
        yield running


def send(gateway: GatewayThread, *payloads: bytes, retain: bool = False) -> None:
    """Publish at QoS 1 and wait until all of it is acknowledged."""
    with RawClient(gateway.port) as client:
        client.open("sender")
        for mid, payload in enumerate(payloads, 1):
            client.send(publish("t", payload, 1, mid, retain=retain))
        for _ in payloads:
            assert client.read()


@pytest.mark.parametrize("present", [True, False])
def test_receive_maximum_is_never_exceeded(make: Make, broker: FakeBroker, present: bool) -> None:
    broker.behaviour = Behaviour(properties=RECEIVE_MAXIMUM_5, keeps_session=present,
                                 closes_on={b"40"})
    gateway = make(broker.port, outbox=QUICK, upstream=V5)
    send(gateway, *(b"%d" % n for n in range(100)))
    broker.wait_for(b"40")
    broker.behaviour.closes_on = set()
    gateway.wait_for("depth", 0, 20)
    assert broker.most_in_flight == 5
    first = list(dict.fromkeys(broker.payloads()))
    assert first == [b"%d" % n for n in range(100)]


def test_maximum_qos_1_gets_qos_1(make: Make, broker: FakeBroker) -> None:
    broker.behaviour = Behaviour(properties=MAXIMUM_QOS_1)
    gateway = make(broker.port, outbox=QUICK, upstream=V5)
    send(gateway, b"x")
    assert broker.wait_for(b"x").qos == 1
    gateway.wait_for("depth", 0)


def test_maximum_qos_0_gets_qos_0_and_nothing_waits_for_ever_where_that_is_wanted(
        make: Make, broker: FakeBroker, caplog: pytest.LogCaptureFixture) -> None:
    broker.behaviour = Behaviour(properties=MAXIMUM_QOS_0)
    gateway = make(broker.port, outbox=QUICK, upstream=V5 + "\nqos_0 = true")
    send(gateway, b"x", b"y")
    assert (broker.wait_for(b"x").qos, broker.wait_for(b"y").qos) == (0, 0)
    gateway.wait_for("depth", 0)
    assert gateway.status()["in_flight"] == 0
    assert caplog.text.count("the broker takes QoS 0 alone") == 1


def test_maximum_qos_0_keeps_what_is_to_arrive_and_says_so_loudly(
        make: Make, broker: FakeBroker, caplog: pytest.LogCaptureFixture) -> None:
    broker.behaviour = Behaviour(properties=MAXIMUM_QOS_0)
    gateway = make(broker.port, outbox=QUICK, upstream=V5,
                   routes='[[route]]\nfilter = "#"\nupgrade = 0')
    send(gateway, b"x", b"y")
    with RawClient(gateway.port) as client:
        client.open("plain")
        client.send(publish("t", b"plain", 0, 0))
    assert broker.wait_for(b"plain").qos == 0
    broker.behaviour = Behaviour()
    gateway.wait_for("delivered", 1)
    assert gateway.status()["depth"] == 3  # with the gateway's own status
    assert "QoS 0 alone" in gateway.status()["upstream_notices"][0]
    assert [r.levelname for r in caplog.records if "QoS 0 alone" in r.message] == ["ERROR"]
    broker.cut()
    assert (broker.wait_for(b"x").qos, broker.wait_for(b"y").qos) == (1, 1)
    gateway.wait_for("depth", 0)
    assert gateway.status()["upstream_notices"] == []


def test_receive_maximum_of_1000_is_announced(make: Make, broker: FakeBroker) -> None:
    make(broker.port, outbox=QUICK, upstream=V5).wait_connected()
    assert all(b"\x21\x03\xe8" in connect for connect in broker.connects)


def test_retain_not_available_gets_none(make: Make, broker: FakeBroker) -> None:
    broker.behaviour = Behaviour(properties=NO_RETAIN, connack=[0x9A])  # refuses a retained will
    gateway = make(broker.port, outbox=QUICK, upstream=V5)
    send(gateway, b"x", retain=True)
    assert broker.wait_for(b"x").retain is False
    wait_until(lambda: [m.retain for m in broker.received if m.payload == b"online"] == [False])
    assert len(broker.connects) == 2 + FORGETS
    flags = [connect[7] for connect in broker.connects]
    assert [flag >> 5 & 1 for flag in flags] == [1, 0, 0]


def test_message_over_the_maximum_packet_size_is_set_aside(
        make: Make, broker: FakeBroker, caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trouble, "SIZE_STANDS_S", 0.0)
    broker.behaviour = Behaviour(properties=PACKETS_TO_200)
    gateway = make(broker.port, outbox=QUICK, upstream=V5)
    send(gateway, b"before", bytes(300), b"after")
    broker.wait_for(b"after")
    gateway.wait_for("refused", 1)
    gateway.wait_for("depth", 1)
    assert broker.payloads() == [b"before", b"after"]
    assert "too big for the upstream" in caplog.text


@pytest.mark.parametrize("limit", [20, 200])
def test_nothing_is_set_aside_because_one_connack_said_a_tiny_packet_size(
        make: Make, broker: FakeBroker, caplog: pytest.LogCaptureFixture,
        monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    if limit < trouble.TINY_BYTES:
        monkeypatch.setattr(trouble, "SIZE_STANDS_S", 0.0)
    broker.behaviour = Behaviour(properties=b"\x27\x00\x00\x00" + bytes([limit]))
    gateway = make(broker.port, outbox=QUICK, upstream=V5)
    send(gateway, b"small", bytes(300), b"too")
    broker.wait_for(b"too")
    gateway.wait_for("in_flight", 0)
    assert gateway.status()["refused"] == 0
    assert "packets of" in gateway.status()["upstream_notices"][0]
    assert caplog.text.count("bigger messages wait") == 1
    broker.behaviour = Behaviour()
    broker.cut()
    broker.wait_for(bytes(300))
    gateway.wait_for("depth", 0)
    assert gateway.status()["refused"] == 0


def test_value_set_aside_is_not_replaced_by_a_newer_one(
        make: Make, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trouble, "SIZE_STANDS_S", 0.0)
    broker.behaviour = Behaviour(properties=PACKETS_TO_200)
    gateway = make(broker.port, outbox=QUICK, upstream=V5,
                   routes='[[route]]\nfilter = "#"\nfull = "latest-only"')
    send(gateway, bytes(300))
    gateway.wait_for("refused", 1)
    send(gateway, b"newer")
    broker.wait_for(b"newer")
    gateway.wait_for("depth", 1)
    assert gateway.status()["dropped"] == {}


def test_server_keep_alive_is_obeyed(make: Make, broker: FakeBroker) -> None:
    broker.behaviour = Behaviour(properties=KEEP_ALIVE_1, keepalive_s=1.0)
    gateway = make(broker.port, outbox=QUICK, upstream=V5)
    with RawClient(gateway.port) as client:
        client.open("clock", keepalive_s=1)
        assert client.closed()  # 1.5 s of silence later
    assert len(broker.connects) == 1 + FORGETS
    assert gateway.status()["upstream"] == "connected"


@pytest.mark.parametrize("code", [0x87, 0x90])
def test_message_refused_with_a_reason_is_set_aside(make: Make, broker: FakeBroker,
                                                    code: int) -> None:
    broker.behaviour = Behaviour(refuses={b"bad": code})
    gateway = make(broker.port, outbox=QUICK, upstream=V5)
    send(gateway, b"1", b"bad", b"2")
    broker.wait_for(b"2")
    gateway.wait_for("refused", 1)
    gateway.wait_for("depth", 1)
    assert gateway.status()["in_flight"] == 0


def test_message_that_is_never_acknowledged_stops_nothing_and_is_set_aside(
        make: Make, old_broker: FakeBroker) -> None:
    old_broker.behaviour = Behaviour(silent_on={b"hole"}, keeps_session=True)
    gateway = make(old_broker.port, outbox=QUICK, upstream="ack_timeout_s = 1")
    with RawClient(gateway.port) as client:
        client.open("sender")
        client.send(publish("t", b"hole", 1, 1))
        assert client.read()
        for number in range(1, 2000):
            client.send(publish("t", b"%d" % number, 1, number + 1))
            assert client.read()
            old_broker.wait_for(b"%d" % number)
            if gateway.status()["refused"]:
                break
        last = number
    gateway.wait_for("depth", 1)
    assert list(dict.fromkeys(old_broker.payloads())) == [
        b"hole", *(b"%d" % n for n in range(1, last + 1))]
    again = [m for m in old_broker.received if m.payload == b"hole"]
    assert len({m.mid for m in again}) == 1
    assert [m.dup for m in again] == [False] + [True] * (len(again) - 1)


def test_message_that_a_broker_closes_on_is_set_aside(
        make: Make, old_broker: FakeBroker, caplog: pytest.LogCaptureFixture) -> None:
    old_broker.behaviour = Behaviour(closes_on={b"poison"})
    gateway = make(old_broker.port, outbox=QUICK)
    send(gateway, *(b"%d" % n for n in range(20)), b"poison", *(b"%d" % n for n in range(20, 40)))
    gateway.wait_for("refused", 1, 30)
    gateway.wait_for("depth", 1, 20)
    assert set(old_broker.payloads()) == {b"poison", *(b"%d" % n for n in range(40))}
    assert "the broker closes on a message" in caplog.text


def test_upstream_that_does_not_read_is_given_up_and_nothing_is_lost(
        make: Make, old_broker: FakeBroker) -> None:
    old_broker.behaviour = Behaviour(reads=False)
    gateway = make(old_broker.port, outbox=QUICK, upstream="inflight = 1000\nack_timeout_s = 2")
    total = 150
    send(gateway, *(b"%d" % n + bytes(100_000) for n in range(total)))
    old_broker.wait_for_links(2, 20)
    old_broker.behaviour.reads = True
    gateway.wait_for("depth", 0, 30)
    assert {int(p.rstrip(b"\0")) for p in old_broker.payloads()} == set(range(total))


def test_refused_connection_is_tried_again(make: Make, broker: FakeBroker) -> None:
    broker.behaviour = Behaviour(connack=[0x87, 0x88])
    gateway = make(broker.port, outbox=QUICK, upstream=V5)
    send(gateway, b"x")
    broker.wait_for(b"x", 20)
    assert len(broker.connects) == 3 + FORGETS


def test_clean_stop_says_offline_and_disconnect(make: Make, broker: FakeBroker) -> None:
    gateway = make(broker.port, outbox=QUICK, upstream=V5)
    broker.wait_for(b"online")
    gateway.stop()
    assert broker.wait_for(b"offline").retain
    wait_until(lambda: broker.disconnects == 1 + FORGETS)


def test_mqtt_5_to_a_real_broker(make: Make, upstream: Mosquitto, judge: Subscriber) -> None:
    gateway = make(upstream.port, outbox=QUICK, upstream=V5, name="five")
    judge.wait_for_message(gateway.status_topic, b"online")
    for qos in ("0", "1", "2"):
        subprocess.run(client_command("mosquitto_pub", gateway.port, "-q", qos, "-t", f"v5/{qos}",
                                      "-m", "x"), check=True, timeout=10)
        assert judge.wait_for_message(f"v5/{qos}", b"x").qos == 2
    gateway.wait_for("depth", 0)
