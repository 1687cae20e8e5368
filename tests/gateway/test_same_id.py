"""Two gateways at one upstream: each has its own id; where they share one, they say so."""

from __future__ import annotations

import socket
import sqlite3
import urllib.error
import urllib.request
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from gateway.batch import LANE_SHIFT, Batch, Entry
from gateway.outbox import Outbox
from gateway.routes import LIVE
from tools.gateway_process import Gateway
from tools.judge import Subscriber
from tools.mosquitto import Mosquitto
from tools.ports import free_port
from tools.raw_client import RawClient, publish
from tools.waiting import wait_until

HOST_NAME = socket.gethostname()
MESSAGES = 1000


class Nameless(Gateway):
    """A gateway whose config says no id."""

    def __init__(self, folder: Path, upstream_port: int, settings: str = "") -> None:
        super().__init__(folder, upstream_port, settings=settings)
        self._text = self._text.partition("\n")[2]


def test_two_gateways_on_one_host_are_two_for_the_upstream(
        tmp_path: Path, upstream: Mosquitto, judge: Subscriber) -> None:
    with Nameless(tmp_path / "a", upstream.port) as one, \
            Nameless(tmp_path / "b", upstream.port) as other:
        for gateway in (one, other):
            wait_until(lambda g=gateway: (g.status() or {}).get("upstream") == "connected")
        names = [(gateway.status() or {})["id"] for gateway in (one, other)]
        assert names[0] != names[1]
        for gateway, name in zip((one, other), names, strict=True):
            judge.wait_for_message(f"tidegate/gateway/{name}/status", b"online")
            assert (gateway.status() or {})["upstream_connects"] == 1
        one.kill()
        one.start()
        assert (one.status() or {})["id"] == names[0]


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_gateways_that_share_an_id_say_so_in_log_status_and_readyz(
        tmp_path: Path, upstream: Mosquitto, protocol: str) -> None:
    with ExitStack() as stack:
        ports = [free_port(), free_port()]
        gateways = [stack.enter_context(Gateway(
            tmp_path / f"{number}", upstream.port, name=f"shared-{protocol[0]}",
            settings=f'protocol = "{protocol}"\n[http]\nlisten = "127.0.0.1:{port}"\n'))
            for number, port in enumerate(ports)]
        for gateway, port in zip(gateways, ports, strict=True):
            wait_until(lambda g=gateway: (g.status() or {}).get("same_id"), 60, "somebody else")
            status = gateway.status() or {}
            assert f"client identifier tidegate-shared-{protocol[0]}" in status["same_id"][0]
            assert set(status["same_id"]) <= set(status["at_risk"])
            assert "another client" in gateway.child.tail(1000)
            with pytest.raises(urllib.error.HTTPError) as caught, urllib.request.urlopen(
                    f"http://127.0.0.1:{port}/readyz", timeout=10):
                pass
            with caught.value as answer:
                assert (answer.code, b"another client" in answer.read()) == (503, True)


def test_copy_of_an_outbox_on_another_machine_says_so(tmp_path: Path) -> None:
    with Nameless(tmp_path / "gw", free_port()) as gateway:
        name = (gateway.status() or {})["id"]
        assert not (gateway.status() or {})["moved"]
        gateway.stop()
        note = gateway.folder / "outbox.db-id"
        note.write_text(f"{name}\nof another machine\n")
        gateway.start()
        assert (gateway.status() or {})["moved"]
        assert (gateway.status() or {})["id"] == name
        assert "another machine" in gateway.child.tail(1000)


def outbox_of_before(path: Path) -> None:
    """An outbox as it was before ids and zeros, MESSAGES in flight: PUBREC came for half."""
    entries = [Entry(LIVE << LANE_SHIFT | number, number, 2, False, False, 0, "#", "dev", "up/t",
                     b"%d" % number) for number in range(1, MESSAGES + 1)]
    with closing(Outbox(path)) as outbox:
        outbox.apply(Batch(insert=entries))
        outbox.forgotten()  # it has been connected
        outbox.apply(Batch(release=entries[::2]))
    with closing(sqlite3.connect(path)) as db:
        db.executescript("DROP TABLE zero; PRAGMA user_version=3;")


@pytest.mark.parametrize("named", [pytest.param(True, marks=pytest.mark.slow), False])
def test_upgrade_with_a_thousand_in_flight_doubles_none_and_leaves_no_ghost(
        tmp_path: Path, named: bool) -> None:
    name = "north" if named else HOST_NAME
    with Mosquitto(tmp_path / "up", persistence=False,
                   extra=["max_inflight_messages 0", "max_queued_messages 0"]) as upstream, \
            Subscriber(upstream.port) as judge:
        with RawClient(upstream.port) as old:  # the old one's session, as its crash left it
            old.open(f"tidegate-{name}", clean=False)
            for mid in range(1, MESSAGES + 1):
                old.send(publish("up/t", b"%d" % mid, 2, mid))
            for _ in range(MESSAGES):
                assert old.read()
        outbox_of_before(tmp_path / "gw" / "outbox.db")
        made = Nameless(tmp_path / "gw", upstream.port)
        if named:
            made._text = f'id = "{name}"\n{made._text}'
        with made as gateway:
            wait_until(lambda: (gateway.status() or {}).get("depth") == 0, 30, "all upstream")
            status = gateway.status() or {}
        if named:  # the config may lose it now
            made = Nameless(tmp_path / "gw", upstream.port)
            with made as gateway:
                assert (gateway.status() or {})["id"] == name
        judge.wait_for_message(f"tidegate/gateway/{name}/status", b"offline")
        times = Counter(a.payload for a in judge.arrivals if a.topic == "up/t")
        said = {a.topic for a in judge.arrivals if a.topic.startswith("tidegate/gateway/")}
    assert status["id"] == name
    assert times == {b"%d" % number: 1 for number in range(1, MESSAGES + 1)}
    assert said == {f"tidegate/gateway/{name}/status"}
    assert status["same_id"] == []
