"""`[broker]`: messages of a broker that already stands, and what such a broker can lose."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.gateway_thread import GatewayThread, Make
from tools.judge import Producer, Subscriber
from tools.mosquitto import Mosquitto
from tools.ports import HOST
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
