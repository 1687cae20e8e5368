"""`tidegate outbox retry` and `drop`: what the upstream refused gets another chance, or goes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gateway import refused
from gateway.cli import cli
from gateway.errors import OutboxError
from tools.fake_broker import Behaviour, FakeBroker
from tools.gateway_process import Gateway
from tools.gateway_thread import GatewayThread, Make
from tools.ports import free_port
from tools.raw_client import RawClient, publish

V5 = {"outbox": "commit_ms = 0", "upstream": 'protocol = "5"'}
NOT_AUTHORIZED = 0x87


@pytest.fixture
def broker() -> Iterator[FakeBroker]:
    with FakeBroker() as running:
        yield running


def run(gateway: GatewayThread | Gateway, *words: str, typed: str | None = None) -> Result:
    config = gateway.folder / "tidegate.toml"
    return CliRunner().invoke(cli, ["outbox", "-c", str(config), *words], input=typed)


def refuse(make: Make, broker: FakeBroker, *payloads: bytes, qos: int = 1) -> GatewayThread:
    """Give a stopped gateway with these set aside; on topics t/PAYLOAD."""
    broker.behaviour = Behaviour(refuses=dict.fromkeys(payloads, NOT_AUTHORIZED))
    gateway = make(broker.port, **V5)
    with RawClient(gateway.port) as client:
        client.open("sender")
        for mid, payload in enumerate(payloads, 1):
            client.send(publish(f"t/{payload.decode()}", payload, 1, mid))
        for _ in payloads:
            client.read()
    gateway.wait_for("refused", len(payloads))
    gateway.stop()
    broker.behaviour = Behaviour()
    broker.received.clear()
    return gateway


def test_refused_messages_are_sent_after_retry_once_each_in_order(
        make: Make, broker: FakeBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(refused, "STEP_ROWS", 7)
    payloads = [b"%d" % number for number in range(20)]
    stopped = refuse(make, broker, *payloads)
    done = run(stopped, "retry")
    assert done.output == "20 messages are sent again when the gateway starts\n"
    gateway = make(broker.port, **V5)
    broker.wait_for(payloads[-1])
    gateway.wait_for("depth", 0)
    assert gateway.status()["refused"] == 0
    assert [payload for payload in broker.payloads() if payload in payloads] == payloads


def test_retry_takes_only_topics_that_match(make: Make, broker: FakeBroker) -> None:
    stopped = refuse(make, broker, b"a", b"b")
    assert run(stopped, "retry", "--topic", "t/b").output.startswith("1 messages")
    gateway = make(broker.port, **V5)
    broker.wait_for(b"b")
    gateway.wait_for("depth", 1)
    assert gateway.status()["refused"] == 1
    assert b"a" not in broker.payloads()


def test_message_that_is_refused_again_is_set_aside_again(make: Make, broker: FakeBroker) -> None:
    stopped = refuse(make, broker, b"a")
    run(stopped, "retry")
    broker.behaviour = Behaviour(refuses={b"a": NOT_AUTHORIZED})
    gateway = make(broker.port, **V5)
    broker.wait_for(b"a")
    gateway.wait_for("refused", 1)
    gateway.wait_for("depth", 1)  # after the gateway's own status


def test_message_that_a_broker_closed_on_keeps_its_identifier(make: Make, broker: FakeBroker
                                                              ) -> None:
    """The upstream may hold it: at QoS 2 it is the identifier that keeps it from coming twice."""
    broker.v5 = False
    broker.behaviour = Behaviour(closes_on={b"bad"})
    gateway = make(broker.port, outbox="commit_ms = 0")
    with RawClient(gateway.port) as client:
        client.open("sender")
        client.send(publish("t/bad", b"bad", 1, 1))
        client.read()
    gateway.wait_for("refused", 1, 30)
    gateway.stop()
    before = {item.mid for item in broker.received if item.payload == b"bad"}
    broker.behaviour = Behaviour(keeps_session=True)
    broker.received.clear()
    assert run(gateway, "retry").output.startswith("1 messages")
    gateway = make(broker.port, outbox="commit_ms = 0")
    assert {broker.wait_for(b"bad").mid} == before
    gateway.wait_for("depth", 0)


def test_drop_asks_first_and_deletes_what_it_said(make: Make, broker: FakeBroker) -> None:
    stopped = refuse(make, broker, b"a", b"b", b"c")
    done = run(stopped, "drop", "--topic", "t/b", typed="n\n")
    assert "Delete 1 refused messages for good?" in done.output
    assert done.exit_code == 1
    assert run(stopped, "drop", "--topic", "t/b", typed="y\n").output.endswith(
        "1 messages deleted\n")
    left = [json.loads(line) for line in run(stopped, "export", "-").stdout.splitlines()]
    assert [(row["topic"], row["lane"]) for row in left] == [("t/a", "refused"),
                                                             ("t/c", "refused")]
    assert run(stopped, "drop", "--yes").output == "2 messages deleted\n"
    assert run(stopped, "drop").output == "0 messages deleted\n"


def test_what_only_waits_is_left_alone(make: Make, tmp_path: Path) -> None:
    gateway = make(free_port())
    with RawClient(gateway.port) as client:
        client.open("sender")
        client.send(publish("t", b"waits", 1, 1))
        client.read()
    gateway.stop()
    assert run(gateway, "drop", "--yes").output == "0 messages deleted\n"
    assert run(gateway, "retry").output.startswith("0 messages")
    assert '"lane": "live"' in run(gateway, "export", "-").stdout
    config = gateway.folder / "tidegate.toml"
    behind = CliRunner().invoke(cli, ["outbox", "export", "-c", str(config), "-"])
    assert '"lane": "live"' in behind.stdout


def test_running_gateway_is_left_alone(tmp_path: Path) -> None:
    with Gateway(tmp_path / "gw", free_port()) as gateway:
        for word in ("retry", "drop"):
            failed = run(gateway, word).exception
            assert isinstance(failed, OutboxError)
            assert "stop it first" in str(failed)


def test_outbox_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(OutboxError, match="no outbox here"):
        refused.retry(tmp_path / "outbox.db")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root leaves files to others")
def test_root_leaves_every_file_to_the_service(make: Make, broker: FakeBroker) -> None:
    stopped = refuse(make, broker, b"a")
    folder = stopped.folder
    for path in folder.iterdir():
        os.chown(path, 12345, 12345)
    assert run(stopped, "retry").output.startswith("1 messages")
    assert {path.stat().st_uid for path in folder.iterdir()} == {12345}
