"""An outbox that begins anew, at an upstream that still holds our old session."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from gateway import bridge as bridges
from gateway.errors import OutboxError
from gateway.outbox import Outbox
from tools.fake_broker import FakeBroker
from tools.gateway_thread import GatewayThread
from tools.judge import Producer, Subscriber
from tools.mosquitto import Mosquitto
from tools.ports import free_port
from tools.raw_client import RawClient, publish
from tools.waiting import wait_until


def hold_identifiers(port: int, client_id: str, mids: range) -> None:
    """Leave QoS 2 messages half way in a session: PUBLISH, PUBREC, and never a PUBREL."""
    with RawClient(port) as old:
        old.open(client_id, clean=False)
        for mid in mids:
            old.send(publish("old", b"%d" % mid, qos=2, mid=mid))
            assert old.read() == (0x50, mid.to_bytes(2, "big"))


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_new_outbox_forgets_the_old_session_upstream(
        tmp_path: Path, upstream: Mosquitto, judge: Subscriber, protocol: str,
        caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    name = f"anew-{protocol.replace('.', '')}"
    hold_identifiers(upstream.port, f"tidegate-{name}", range(1, 300))
    settings = f'protocol = "{protocol}"'
    with GatewayThread(tmp_path, upstream.port, upstream=settings, name=name) as gateway:
        gateway.wait_connected()
        # Mosquitto tells apart by content; a broker that does not would swallow what is new.
        assert "session_present=False" in caplog.text
        assert "session_present=True" not in caplog.text
        with Producer(gateway.port, "thing") as thing:
            for number in range(50):
                thing.publish("new", b"%d" % number, qos=1)
            thing.wait_for_acknowledgements()
        wait_until(lambda: sum(a.topic == "new" for a in judge.arrivals) >= 50, 10, "all 50")
        gateway.wait_for("depth", 0)
    assert not any(a.topic == "old" for a in judge.arrivals)
    said = [a.payload for a in judge.arrivals if a.topic == gateway.status_topic]
    assert said == [b"online", b"offline"]  # no will for the connection that cleared the past


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_outbox_that_was_never_connected_forgets_at_its_first_connection_and_only_then(
        tmp_path: Path, protocol: str) -> None:
    settings = f'protocol = "{protocol}"'
    with GatewayThread(tmp_path, free_port(), upstream=settings) as gateway:
        gateway.wait_for("depth", 0)
    with FakeBroker(v5=protocol == "5") as broker:
        for _ in range(2):
            with GatewayThread(tmp_path, broker.port, upstream=settings) as gateway:
                gateway.wait_connected()
        clean = [bool(connect[7] & 2) for connect in broker.connects]
    assert clean == [True, False, False]


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_nothing_is_sent_before_it_is_on_disk_that_the_upstream_forgot(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protocol: str) -> None:
    monkeypatch.setattr(bridges, "RETRY_S", 0.01)
    inner, seen = Outbox.forgotten, list[tuple[int, int]]()

    with FakeBroker(v5=protocol == "5") as broker:
        def forgotten(outbox: Outbox) -> None:
            seen.append((len(broker.connects), len(broker.received)))
            if len(seen) < 20:
                raise OutboxError("the disk failed")
            inner(outbox)

        monkeypatch.setattr(Outbox, "forgotten", forgotten)
        with GatewayThread(tmp_path, broker.port, upstream=f'protocol = "{protocol}"') as gateway:
            gateway.wait_connected()
            broker.wait_for(b"online")
    assert seen == [(1, 0)] * 20
