"""The service as a process: what it tells systemd, SIGHUP under load, HTTP, and the commands."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway import outbox_view
from gateway.cli import cli
from gateway.errors import TidegateError
from tools.gateway_process import PROJECT, Gateway
from tools.install import Layout
from tools.judge import Subscriber
from tools.mosquitto import Mosquitto
from tools.ports import HOST, free_port
from tools.raw_client import RawClient, publish
from tools.waiting import wait_until

ROUTE = '[[route]]\nfilter = "a/#"\nto = "old/{topic}"\n'


class Systemd:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.said: list[str] = []
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            while data := self._socket.recv(4096):
                self.said += data.decode().splitlines()
        except OSError:
            pass

    def wait(self, start: str, count: int = 1) -> str:
        """Wait for the count-th line that begins so."""
        return wait_until(
            lambda: [line for line in self.said if line.startswith(start)][count - 1:], 10.0,
            start)[0]

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    end = Systemd(tmp_path / "notify")
    yield end
    end.close()


@pytest.fixture
def gateway(tmp_path: Path, upstream: Mosquitto, systemd: Systemd) -> Iterator[Gateway]:
    with Gateway(tmp_path / "gw", upstream.port, name="svc", settings=ROUTE + (
            f'[outbox]\ncommit_ms = 0\n[http]\nlisten = "{HOST}:{free_port()}"\n'),
            env={"NOTIFY_SOCKET": str(systemd.path), "WATCHDOG_USEC": "400000"}) as process:
        systemd.wait("READY=1")
        yield process


def test_systemd_hears_ready_status_watchdog_and_stopping(gateway: Gateway,
                                                          systemd: Systemd) -> None:
    systemd.wait("READY=1")
    assert "upstream" in systemd.wait("STATUS=upstream")
    systemd.wait("WATCHDOG=1", 3)
    gateway.child.signal(signal.SIGHUP)
    systemd.wait("RELOADING=1")
    systemd.wait("MONOTONIC_USEC=")
    systemd.wait("READY=1", 2)
    assert gateway.stop() == 0
    systemd.wait("STOPPING=1")
    assert not any(line.startswith("WATCHDOG") for line in
                   systemd.said[systemd.said.index("STOPPING=1"):])


def test_reload_under_load_applies_a_route_and_loses_nothing(
        gateway: Gateway, judge: Subscriber, systemd: Systemd) -> None:
    with RawClient(gateway.port) as client:
        client.open("c")
        sent = 0
        for part in range(4):
            for _ in range(100):
                sent += 1
                client.send(publish("a/x", b"%d" % sent, 1, sent))
            if part == 1:
                gateway.config.write_text(gateway.config.read_text().replace("old/", "new/"))
                gateway.child.signal(signal.SIGHUP)
            if part == 2:
                systemd.wait("READY=1", 2)
        assert [client.read() for _ in range(sent)] == [
            (0x40, mid.to_bytes(2, "big")) for mid in range(1, sent + 1)]  # the same connection
    judge.wait_for_message("new/a/x", b"%d" % sent)
    came = [(a.topic, int(a.payload)) for a in judge.arrivals if a.topic.endswith("a/x")]
    assert [number for _, number in came] == list(range(1, sent + 1))
    assert {topic for topic, _ in came} == {"old/a/x", "new/a/x"}
    assert "only a restart" not in gateway.child.log.read_text()


def test_reload_names_what_waits_for_a_restart(gateway: Gateway, systemd: Systemd) -> None:
    gateway.config.write_text(gateway.config.read_text().replace("commit_ms = 0", "commit_ms = 9"))
    gateway.child.signal(signal.SIGHUP)
    systemd.wait("READY=1", 2)
    assert "only a restart makes it so settings=outbox\n" in gateway.child.log.read_text()


def test_reload_of_a_broken_config_changes_nothing(gateway: Gateway, systemd: Systemd,
                                                   judge: Subscriber) -> None:
    gateway.config.write_text("nonsense")
    gateway.child.signal(signal.SIGHUP)
    systemd.wait("READY=1", 2)
    assert "not reloaded" in gateway.child.log.read_text()
    with RawClient(gateway.port) as client:
        client.open("c")
        client.send(publish("a/x", b"still", 1, 1))
        judge.wait_for_message("old/a/x", b"still")


def get(gateway: Gateway, path: str) -> tuple[int, str]:
    port = gateway.config.read_text().partition("[http]")[2].split('"')[1].rpartition(":")[2]
    try:
        with urllib.request.urlopen(f"http://{HOST}:{port}{path}", timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_http_tells_metrics_and_health(gateway: Gateway) -> None:
    with RawClient(gateway.port) as client:
        client.open("c")
        client.send(publish("a/x", b"1", 1, 1))
        client.read()
        code, text = get(gateway, "/metrics")
    assert code == 200
    lines = text.splitlines()
    assert "tidegate_devices_connected 1.0" in lines
    assert 'tidegate_events_total{reason="received"} 1.0' in lines
    assert "tidegate_disk_ok 1.0" in lines
    assert any(line.startswith("process_resident_memory_bytes ") for line in lines)
    assert get(gateway, "/healthz") == (200, "ok\n")
    assert get(gateway, "/readyz") == (200, "ok\n")
    assert get(gateway, "/other")[0] == 404


def test_metrics_tell_what_is_written_for_each_byte_of_payload(gateway: Gateway) -> None:
    def counted(name: str) -> float:
        lines = get(gateway, "/metrics")[1].splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"{name} "))

    with RawClient(gateway.port) as client:
        client.open("c")
        client.send(publish("a/x", bytes(7), 1, 1))  # what the gateway says itself is before it
        client.read()
        before = counted("tidegate_payload_bytes_total")
        written = counted("tidegate_disk_written_bytes_total")
        for mid in range(2, 12):
            client.send(publish("a/x", bytes(5000), 1, mid))
            assert client.read() == (0x40, mid.to_bytes(2, "big"))
        assert counted("tidegate_payload_bytes_total") - before == 50_000
        written = counted("tidegate_disk_written_bytes_total") - written
    # A file system in memory has no disk to write.
    assert 50_000 < written < 500_000 or written == 0


def test_full_outbox_is_told_by_readyz_and_status_and_is_no_reason_to_restart(
        tmp_path: Path) -> None:
    with Gateway(tmp_path / "gw", free_port(), settings=(
            f'[outbox]\nmax_size = "64 KiB"\n[http]\nlisten = "{HOST}:{free_port()}"\n'
            )) as process, RawClient(process.port) as client:
        config = ("-c", str(process.config))
        assert "promise    kept\n" in run("status", *config)
        assert get(process, "/readyz") == (200, "ok\n")
        client.open("c")
        for mid in range(1, 80):
            client.send(publish("a", b"x" * 1000, 1, mid))
        wait_until(lambda: get(process, "/readyz") == (503, "outbox: full\n"), 10.0, "full")
        assert get(process, "/healthz") == (200, "ok\n")
        assert "tidegate_at_risk 1.0" in get(process, "/metrics")[1].splitlines()
        assert "promise    AT RISK: outbox: full\n" in run("status", *config)
        away = re.compile(rf"upstream   away: {HOST}:\d+: Connection refused \(0 connects\)")
        wait_until(lambda: away.search(run("status", *config)))  # None in the middle of a try


def test_dashboard_and_alarms_ask_only_for_metrics_that_there_are(gateway: Gateway) -> None:
    text = get(gateway, "/metrics")[1]
    there = set(re.findall(r"^([a-z_]+)(?:\{| )", text, re.M)) \
        | set(re.findall(r"^# TYPE ([a-z_]+) ", text, re.M))
    board = json.loads((PROJECT / "gateway" / "system" / "grafana.json").read_text())
    exprs = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    alarms = (PROJECT / "docs" / "operations.md").read_text().partition("What each alarm means")[2]
    rules = re.findall(r"expr: (.+)", (PROJECT / "gateway" / "system" / "alerts.yml").read_text())
    assert [rule for rule in rules if f"`{rule.partition(' and ')[0]}`" not in alarms] == [
        'up{job=~".*tidegate.*"} == 0']
    asked = {name for text in (*exprs, *rules, *re.findall(r"`([^`]+)`", alarms))
             for name in re.findall(r"\b(?:tidegate|process)_[a-z_]+", text)}
    assert len(asked) > 12
    assert asked <= there, asked - there


def run(*args: str) -> str:
    done = CliRunner().invoke(cli, args, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.mark.parametrize("words", [
    ["watch", "--every", "0"], ["watch", "--count", "-1"], ["certs", "device", "g", "--days", "0"],
    ["certs", "server", "--days", "99999999"]])
def test_number_that_makes_no_sense_is_one_line(words: list[str]) -> None:
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 2
    assert "is not in the range" in done.output


def test_authority_in_a_folder_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = CliRunner().invoke(cli, ["certs", "ca", "-d", str(tmp_path / "file" / "x")])
    assert isinstance(done.exception, TidegateError)
    assert "cannot be made: Not a directory" in str(done.exception)


@pytest.mark.parametrize("running", [True, False])
def test_outbox_tells_depth_by_route_and_exports_all(
        tmp_path: Path, running: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_view, "STEP_ROWS", 99)
    gateway = Gateway(tmp_path / "gw", free_port(), settings=ROUTE + '[[route]]\n')
    gateway.start()
    with RawClient(gateway.port) as client:
        client.open("c")
        for mid in range(1, 701):
            client.send(publish("a/x" if mid % 2 else "b", b"%d" % mid, 1, mid))
        for _ in range(700):
            client.read()
    if not running:
        gateway.stop()
    config = ("-c", str(gateway.config))
    try:
        found = json.loads(run("outbox", *config, "--json"))
        assert found["depth"] == 700
        assert {row["route"]: row["depth"] for row in found["routes"]} == {"a/#": 350, "#": 350}
        assert "700 messages" in run("outbox", *config)
        rows = [json.loads(line) for line in run("outbox", *config, "export", "-").splitlines()]
        assert [int(row["payload"]) for row in rows] == list(range(1, 701))
        assert rows[0]["topic"] == "old/a/x"
    finally:
        gateway.stop()


def test_devices_and_watch_tell_who_is_there(gateway: Gateway) -> None:
    with RawClient(gateway.port) as client:
        client.open("somebody")
        rows = json.loads(run("devices", "-c", str(gateway.config), "--json"))
        assert [row["client"] for row in rows] == ["somebody"]
        assert "1 connected" in run("devices", "-c", str(gateway.config))
        assert "devices 1" in run("watch", "-c", str(gateway.config), "--count", "1")


def test_control_socket_is_for_owner_and_group(gateway: Gateway) -> None:
    assert (gateway.folder / "outbox.db.ctl").stat().st_mode & 0o777 == 0o660


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    text = (PROJECT / "gateway" / "system" / "tidegate.service").read_text()
    file = tmp_path / "tidegate.service"
    file.write_text(Layout({}).fill(text))
    return file


def test_unit_is_exposed_to_2_at_most(unit: Path) -> None:
    try:
        done = subprocess.run(
            ["systemd-analyze", "security", "--offline=true", "--threshold=20", "--no-pager",
             str(unit)], capture_output=True, text=True, check=False, timeout=30)
    except FileNotFoundError:
        pytest.skip("no systemd-analyze on this machine")
    assert "Overall exposure level" in done.stdout, done.stderr
    assert done.returncode == 0, done.stdout[-300:]


def test_install_refuses_a_relative_prefix(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "tools.install", "install"], cwd=PROJECT,
                          env={"PREFIX": "opt", "DESTDIR": str(tmp_path)}, capture_output=True,
                          text=True, check=False)
    assert done.returncode == 1
    assert "opt: has to be an absolute path" in done.stdout
