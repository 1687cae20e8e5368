"""The gateway as a process: wrong configs, SIGTERM, kill -9, and what is there afterwards."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tools.gateway_process import COMMAND, Gateway
from tools.judge import Producer, Subscriber
from tools.mosquitto import Mosquitto
from tools.ports import free_port
from tools.raw_client import RawClient, packet, publish
from tools.waiting import wait_until

Start = Callable[..., Gateway]
QUICK = "[outbox]\ncommit_ms = 0\n"


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts gateway processes that end with the test."""
    running: list[Gateway] = []

    def made(upstream_port: int, settings: str = "", name: str = "gateway") -> Gateway:
        gateway = Gateway(tmp_path / "gw", upstream_port, settings=settings, name=name)
        running.append(gateway)
        gateway.start()
        return gateway

    yield made
    for gateway in running:
        gateway.stop()


def run(config: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, "run", "-c", str(config)], capture_output=True, text=True,
                          timeout=15, check=False)


@pytest.mark.parametrize(("text", "part"), [
    ("[listener]\nlisten = 7", "listener.listen"), ("[[route]]\nupgrade = 9", "0, 1, 2"),
    ("nonsense", "not TOML")])
def test_wrong_config_is_one_line_and_exit_2(tmp_path: Path, text: str, part: str) -> None:
    config = tmp_path / "t.toml"
    config.write_text(text)
    done = run(config)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert str(config) in done.stderr
    assert part in done.stderr
    assert not (tmp_path / "outbox.db").exists()


def test_address_in_use_is_one_line_and_exit_2(tmp_path: Path, upstream: Mosquitto) -> None:
    config = tmp_path / "t.toml"
    config.write_text(f'[listener]\nlisten = "127.0.0.1:{upstream.port}"')
    done = run(config)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert f"cannot listen on 127.0.0.1:{upstream.port}" in done.stderr.splitlines()[-1]


def test_second_gateway_on_one_outbox_is_refused(start: Start, tmp_path: Path) -> None:
    gateway = start(free_port())
    (gateway.folder / "second.toml").write_text('[listener]\nlisten = "127.0.0.1:0"')
    done = run(gateway.folder / "second.toml")
    assert done.returncode == 2
    assert "another gateway" in done.stderr.splitlines()[-1]
    assert gateway.running


def test_sigterm_keeps_everything_acknowledged(start: Start, upstream: Mosquitto,
                                               judge: Subscriber) -> None:
    gateway = start(free_port())
    with Producer(gateway.port, client_id="p") as producer:
        for number in range(500):
            producer.publish("term/t", b"%d" % number)
        wait_until(lambda: producer.acknowledged > 100)
        assert gateway.stop() == 0
        owed = [m.payload for m, known in producer.ledger() if known]
    assert "Traceback" not in gateway.child.tail(1000)
    start(upstream.port)
    wait_until(lambda: set(owed) <= {a.payload for a in judge.arrivals}, 20)
    arrived = [a.payload for a in judge.arrivals if a.topic == "term/t"]
    assert len(arrived) == len(set(arrived))


def test_kill_9_with_a_backlog_delivers_all_of_it_once_in_order(
        start: Start, upstream: Mosquitto, judge: Subscriber) -> None:
    gateway = start(free_port())
    with RawClient(gateway.port) as client:
        client.open("c")
        for mid in range(1, 301):
            client.send(publish("kill/t", b"%d" % mid, 1, mid))
        for _ in range(300):
            assert client.read()
        gateway.kill()
    start(upstream.port)
    wait_until(lambda: sum(a.topic == "kill/t" for a in judge.arrivals) >= 300, 20)
    assert [a.payload for a in judge.arrivals if a.topic == "kill/t"] == [
        b"%d" % mid for mid in range(1, 301)]


def test_wills_of_those_who_were_there_are_fired_after_a_crash(
        start: Start, upstream: Mosquitto, judge: Subscriber, tmp_path: Path) -> None:
    gateway = start(free_port(), QUICK)
    with RawClient(gateway.port) as gone, RawClient(gateway.port) as back, \
            RawClient(gateway.port) as polite:
        for client, name in ((gone, "gone"), (back, "back"), (polite, "polite")):
            client.open(name, will=(f"w/{name}", b"fired", 1, False))
            client.send(publish("mark", b"x", 1, 1))  # its will is on disk with this
            assert client.read()
        polite.send(b"\xe0\x00")
        assert polite.closed()
        back.send(publish("mark", b"x", 1, 2))
        assert back.read()
        gateway.kill()
    config = gateway.config
    gateway = Gateway(tmp_path / "gw", upstream.port, settings=QUICK)
    gateway._text = gateway._text.replace("[listener]\n", "[listener]\nwill_grace_s = 1\n")
    with gateway, RawClient(gateway.port) as back:
        assert config == gateway.config
        back.open("back", will=("w/back", b"fired", 1, False))
        judge.wait_for_message("w/gone", b"fired")
        assert {a.topic for a in judge.arrivals if a.topic.startswith("w/")} == {"w/gone"}


def test_upstream_learns_that_a_killed_gateway_is_offline(start: Start, upstream: Mosquitto,
                                                          judge: Subscriber) -> None:
    gateway = start(upstream.port, name="killed")
    judge.wait_for_message(gateway.status_topic, b"online")
    gateway.kill()
    judge.wait_for_message(gateway.status_topic, b"offline")
    judge.arrivals.clear()
    start(upstream.port, name="killed")
    judge.wait_for_message(gateway.status_topic, b"online")


def test_retained_messages_outlive_a_kill_9(start: Start) -> None:
    gateway = start(free_port(), QUICK)
    with RawClient(gateway.port) as client:
        client.open("c")
        client.send(publish("kept", b"v", 1, 1, retain=True))
        assert client.read()
        gateway.kill()
    gateway = start(free_port(), QUICK)
    with RawClient(gateway.port) as client:
        client.open("c")
        client.send(packet(0x82, b"\x00\x01\x00\x04kept\x00"))
        assert client.read() == (0x90, b"\x00\x01\x00")
        assert client.read() == (0x31, b"\x00\x04keptv")
