"""Our own Mosquitto: it comes back as it was, and says why when it cannot start."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tools import mosquitto
from tools.judge import Producer, Subscriber, verdict_of_messages
from tools.mosquitto import Mosquitto, MosquittoMissingError
from tools.ports import HOST, PortError, answers, free_port, wait_for_port
from tools.procs import ChildError


def test_stop_keeps_what_was_acknowledged_for_an_absent_subscriber(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as broker, Producer(broker.port) as producer:
        subscriber = Subscriber(broker.port)
        subscriber.start()
        subscriber.stop()
        for number in range(200):
            producer.publish("t", str(number).encode(), qos=2)
        producer.wait_for_acknowledgements()
        broker.stop()
        broker.start()
        with Subscriber(broker.port) as again:
            again.wait_for_message("t", b"199")
            verdict = verdict_of_messages([producer], again)
    assert verdict.passed, verdict
    assert verdict.produced == 200


def test_kill_without_persistence_forgets(tmp_path: Path) -> None:
    with Mosquitto(tmp_path, persistence=False) as broker, Producer(broker.port) as producer:
        subscriber = Subscriber(broker.port)
        subscriber.start()
        subscriber.stop()
        producer.publish("t", b"forgotten", qos=1)
        producer.wait_for_acknowledgements()
        broker.kill()
        broker.start()
        with Subscriber(broker.port) as again:
            producer.wait_for(lambda: producer.connections > 1, 10, "a new connection")
            producer.publish("t", b"kept", qos=1)
            again.wait_for_message("t", b"kept")
            verdict = verdict_of_messages([producer], again)
    assert verdict.line == ("verdict: FAIL produced=2 delivered=1 lost=1 duplicated=0 reordered=0")


def test_start_with_a_wrong_setting_says_which(tmp_path: Path) -> None:
    broker = Mosquitto(tmp_path, extra=["no_such_setting true"])
    with pytest.raises(ChildError, match="no_such_setting"):
        broker.start()
    assert not broker.running


def test_start_on_a_port_in_use_fails(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as taken:
        broker = Mosquitto(tmp_path, port=taken.getsockname()[1])
        with pytest.raises(ChildError, match="in use"):
            broker.start()
    assert not broker.running


def test_end_of_the_block_leaves_no_process(tmp_path: Path) -> None:
    with Mosquitto(tmp_path) as broker:
        pid = broker.child.pid
        assert answers(broker.port)
    assert not Path(f"/proc/{pid}").exists()
    assert not answers(broker.port)


def test_find_program_nowhere_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_packages(*_args: object, **_settings: object) -> None:
        raise mosquitto.debian.FetchError("no network")

    monkeypatch.setattr(mosquitto.debian, "fetch", no_packages)
    with pytest.raises(MosquittoMissingError, match=r"mosquitto_rr_: .*no network"):
        mosquitto.find_program("mosquitto_rr_")


def test_wait_for_port_gives_up_at_its_deadline() -> None:
    port = free_port()
    with pytest.raises(PortError, match=str(port)):
        wait_for_port(port, 0.1)
    with pytest.raises(PortError, match="is gone"):
        wait_for_port(port, 60, alive=lambda: False)
