"""Mosquitto as upstream, every way in: password, TLS, mutual TLS, WebSocket, at 3.1.1 and 5."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from gateway import certs
from tools.gateway_thread import GatewayThread
from tools.judge import Subscriber
from tools.mosquitto import Mosquitto, find_program
from tools.ports import HOST, free_port
from tools.raw_client import RawClient, publish
from tools.waiting import wait_until

COUNT = 60


class Brokers(NamedTuple):
    """One Mosquitto with a listener for each way in, and one that asks for a password."""

    open: Mosquitto
    closed: Mosquitto
    ports: dict[str, int]
    ca: Path


@pytest.fixture(scope="module")
def brokers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Brokers]:
    ca = tmp_path_factory.mktemp("ca")
    certs.make_ca(ca, "CA")
    certs.issue(ca, "server", "broker", [HOST], 30)
    certs.issue(ca, "gateway", "gateway", [], 30)
    certs.issue(ca, "late", "gateway", [], -1)
    certs.issue(ca, "stale", "broker", [HOST], -1)
    ca.chmod(0o755)
    ports = {name: free_port() for name in ("tls", "mtls", "ws", "wss", "stale")}
    keys = [f"cafile {ca}/ca.crt", f"certfile {ca}/server.crt", f"keyfile {ca}/server.key"]
    stale = [f"cafile {ca}/ca.crt", f"certfile {ca}/stale.crt", f"keyfile {ca}/stale.key"]
    passwords = tmp_path_factory.mktemp("passwords") / "file"
    passwords.touch()
    tool = find_program("mosquitto_passwd")
    subprocess.run([*tool, "-b", str(passwords), "gateway", "right one"], check=True,
                   capture_output=True)
    (ca / "password").write_text("right one\n")
    (ca / "wrong").write_text("wrong one\n")
    extra = [
        f"listener {ports['tls']} {HOST}", *keys,
        f"listener {ports['mtls']} {HOST}", *keys, "require_certificate true",
        f"listener {ports['ws']} {HOST}", "protocol websockets",
        f"listener {ports['wss']} {HOST}", "protocol websockets", *keys,
        f"listener {ports['stale']} {HOST}", *stale]
    with Mosquitto(tmp_path_factory.mktemp("open"), persistence=False, extra=extra) as broker, \
            Mosquitto(tmp_path_factory.mktemp("closed"), persistence=False, extra=[
                "allow_anonymous false", f"password_file {passwords}"]) as closed:
        yield Brokers(broker, closed, ports | {"password": closed.port, "tcp": broker.port}, ca)


def gateway_for(brokers: Brokers, folder: Path, url: str, settings: str) -> GatewayThread:
    made = GatewayThread(folder, 0, outbox="commit_ms = 0", name="up", upstream=settings)
    file = folder / "tidegate.toml"
    file.write_text(file.read_text().replace(f"mqtt://{HOST}:0", url)
                    .replace("CA/", f"{brokers.ca}/"))
    return made


def send(gateway: GatewayThread, name: str) -> None:
    with RawClient(gateway.port) as client:
        client.open("c")
        client.send(b"".join(publish(f"t/{name}", b"%d" % n, 1, n + 1) for n in range(COUNT)))
        for _ in range(COUNT):
            assert client.read() is not None


WAYS = {
    "tls": ("mqtts", 'ca_file = "CA/ca.crt"\n'),
    "mtls": ("mqtts", 'ca_file = "CA/ca.crt"\ncert_file = "CA/gateway.crt"\n'
             'key_file = "CA/gateway.key"\n'),
    "ws": ("ws", ""), "wss": ("wss", 'ca_file = "CA/ca.crt"\n')}


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
@pytest.mark.parametrize("way", WAYS)
def test_all_arrives_once_whatever_the_way(brokers: Brokers, tmp_path: Path, way: str,
                                           protocol: str) -> None:
    scheme, settings = WAYS[way]
    name = f"{way}/{protocol}"
    with Subscriber(brokers.open.port, client_id=f"judge-{name}") as judge, gateway_for(
            brokers, tmp_path, f"{scheme}://{HOST}:{brokers.ports[way]}",
            f'{settings}protocol = "{protocol}"') as gateway:
        gateway.wait_connected()
        send(gateway, name)
        judge.wait_for_message(f"t/{name}", b"%d" % (COUNT - 1))
        gateway.wait_for("depth", 0)
        came = [a for a in judge.arrivals if a.topic == f"t/{name}"]
        assert [int(a.payload) for a in came] == list(range(COUNT))
        assert {a.qos for a in came} == {2}


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_password_from_a_file_is_taken(brokers: Brokers, tmp_path: Path, protocol: str) -> None:
    with gateway_for(brokers, tmp_path, f"mqtt://{HOST}:{brokers.closed.port}",
                     'username = "gateway"\npassword_file = "CA/password"\n'
                     f'protocol = "{protocol}"') as gateway:
        gateway.wait_connected()
        send(gateway, "password")
        gateway.wait_for("depth", 0)
        assert gateway.status()["delivered"] == COUNT + 1  # and its own status


@pytest.mark.parametrize(("way", "scheme", "settings", "reason"), [
    ("password", "mqtt", 'username = "gateway"\npassword_file = "CA/wrong"\n', "authori"),
    ("password", "mqtt", "", "authori"),
    ("tls", "mqtts", "", "certificate verify failed"),  # a CA that the system does not know
    ("stale", "mqtts", 'ca_file = "CA/ca.crt"\n', "certificate has expired"),
    ("mtls", "mqtts", 'ca_file = "CA/ca.crt"\n', "certificate required|handshake failure|closed"),
    ("mtls", "mqtts", 'ca_file = "CA/ca.crt"\ncert_file = "CA/late.crt"\n'
     'key_file = "CA/late.key"\n', "expired|closed")])
def test_upstream_that_refuses_is_named_and_nothing_is_lost(
        brokers: Brokers, tmp_path: Path, way: str, scheme: str, settings: str,
        reason: str) -> None:
    with gateway_for(brokers, tmp_path, f"{scheme}://{HOST}:{brokers.ports[way]}",
                     settings) as gateway:
        said = wait_until(  # in one look: the next try may begin at once
            lambda: (now := gateway.status()["upstream"].lower()).startswith("away") and now)
        assert any(word in said for word in reason.split("|")), said
        assert "wrong one" not in said
        send(gateway, "kept")
        assert gateway.status()["depth"] == COUNT
        assert gateway.status()["delivered"] == 0


def test_tls_link_that_is_cut_is_taken_up_again_and_nothing_is_lost(
        brokers: Brokers, tmp_path: Path) -> None:
    scheme, settings = WAYS["mtls"]
    with Subscriber(brokers.open.port, client_id="judge-cut") as judge, gateway_for(
            brokers, tmp_path, f"{scheme}://{HOST}:{brokers.ports['mtls']}",
            settings) as gateway:
        gateway.wait_connected()
        assert gateway.bridge is not None
        for number in range(3):
            gateway.wait_connected()
            send(gateway, f"cut/{number}")
            gateway._loop.call_soon_threadsafe(gateway.bridge.upstream.drop, "cut by the test")
        for number in range(3):
            judge.wait_for_message(f"t/cut/{number}", b"%d" % (COUNT - 1), 20.0)
        gateway.wait_for("depth", 0, 20.0)
        for number in range(3):
            assert [int(a.payload) for a in judge.arrivals if a.topic == f"t/cut/{number}"] == \
                list(range(COUNT))
