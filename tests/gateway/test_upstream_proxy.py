"""The way upstream through a proxy: SOCKS5 by microsocks, HTTP CONNECT by tinyproxy."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from gateway import certs, paho_session, proxy
from gateway.errors import UnreachableError
from gateway.proxy import Proxy
from tools.gateway_thread import GatewayThread, Make
from tools.judge import Producer, Subscriber
from tools.mosquitto import Mosquitto
from tools.other_proxies import MicroSocks, OtherProxy, TinyProxy
from tools.ports import HOST, free_port
from tools.proxy_thread import ProxyThread
from tools.raw_client import RawClient, publish
from tools.waiting import wait_until

COUNT = 60
LOGIN = ("gateway", "right-one")
KINDS = {"socks5": MicroSocks, "http": TinyProxy}


class Broker(NamedTuple):
    """A Mosquitto, its ports by scheme, and a folder with ca.crt and files of passwords."""

    mosquitto: Mosquitto
    ports: dict[str, int]
    files: Path


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    files = tmp_path_factory.mktemp("files")
    certs.make_ca(files, "CA")
    certs.issue(files, "server", "broker", [HOST], 30)
    (files / "right").write_text(LOGIN[1] + "\n")
    (files / "wrong").write_text("wrong-one\n")
    files.chmod(0o755)
    keys = [f"cafile {files}/ca.crt", f"certfile {files}/server.crt",
            f"keyfile {files}/server.key"]
    ports = {scheme: free_port() for scheme in ("mqtts", "ws", "wss")}
    with Mosquitto(tmp_path_factory.mktemp("broker"), persistence=False, extra=[
            f"listener {ports['mqtts']} {HOST}", *keys,
            f"listener {ports['ws']} {HOST}", "protocol websockets",
            f"listener {ports['wss']} {HOST}", "protocol websockets", *keys]) as mosquitto:
        yield Broker(mosquitto, ports | {"mqtt": mosquitto.port}, files)


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> type[OtherProxy]:
    return KINDS[request.param]


def through(kind: type[OtherProxy], port: int, more: str = "") -> str:
    return f'proxy = "{kind.scheme}://{HOST}:{port}"\n{more}'


def login(broker: Broker, word: str) -> str:
    return f'proxy_username = "{LOGIN[0]}"\nproxy_password_file = "{broker.files}/{word}"\n'


def send(gateway: GatewayThread, topic: str, start: int = 0) -> None:
    with RawClient(gateway.port) as client:
        client.open("c")
        client.send(b"".join(publish(topic, b"%d" % (start + n), 1, n + 1) for n in range(COUNT)))
        for _ in range(COUNT):
            assert client.read() is not None


def away(gateway: GatewayThread) -> str:
    """Why the upstream is away, once it is."""
    state = wait_until(lambda: (found := gateway.status()["upstream"]).startswith("away: ")
                       and found, 20.0, "away")
    return str(state).removeprefix("away: ")


@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
@pytest.mark.parametrize("scheme", ["mqtt", "mqtts", "ws", "wss"])
def test_all_arrives_once_through_a_proxy_that_wants_a_password(
        broker: Broker, kind: type[OtherProxy], make: Make, tmp_path: Path, scheme: str,
        protocol: str) -> None:
    topic = f"t/{kind.scheme}/{scheme}/{protocol}"
    with kind(tmp_path / "proxy", LOGIN) as served, ProxyThread(served.port) as link, \
            Subscriber(broker.mosquitto.port, client_id=f"judge-{topic}") as judge:
        gateway = make(broker.ports[scheme], scheme=scheme, outbox="commit_ms = 0",
                       upstream=through(kind, link.port, login(broker, "right"))
                       + f'protocol = "{protocol}"\nca_file = "{broker.files}/ca.crt"')
        gateway.wait_connected()
        send(gateway, topic)
        judge.wait_for_message(topic, b"%d" % (COUNT - 1))
        gateway.wait_for("depth", 0)
        assert [int(a.payload) for a in judge.arrivals if a.topic == topic] == list(range(COUNT))
        assert link.counts.bytes_up > COUNT


def test_links_that_are_cut_and_a_proxy_that_starts_again_lose_nothing(
        broker: Broker, kind: type[OtherProxy], make: Make, tmp_path: Path) -> None:
    topic = f"cut/{kind.scheme}"
    with kind(tmp_path / "proxy") as served, ProxyThread(served.port) as link, \
            Subscriber(broker.mosquitto.port, client_id=f"judge-{topic}") as judge:
        gateway = make(broker.ports["mqtts"], scheme="mqtts", outbox="commit_ms = 0",
                       upstream=through(kind, link.port) + f'ca_file = "{broker.files}/ca.crt"')
        for part in range(3):
            gateway.wait_connected()
            connects = gateway.status()["upstream_connects"]
            send(gateway, topic, part * COUNT)
            link.cut()
            gateway.wait_for("upstream_connects", connects + 1, 20.0)
        served.stop()
        wait_until(lambda: f"proxy {HOST}:{link.port}: " in gateway.status()["upstream"], 20.0)
        send(gateway, topic, 3 * COUNT)
        served.start()
        judge.wait_for_message(topic, b"%d" % (4 * COUNT - 1), 30.0)
        gateway.wait_for("depth", 0, 20.0)
        assert [int(a.payload) for a in judge.arrivals if a.topic == topic] == list(
            range(4 * COUNT))


def test_broker_to_take_from_is_reached_through_a_proxy_too(broker: Broker, make: Make,
                                                            tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "house", persistence=False) as house, \
            MicroSocks(tmp_path / "proxy") as served, ProxyThread(served.port) as link, \
            Subscriber(broker.mosquitto.port, client_id="judge-house") as judge, \
            Producer(house.port) as producer:
        gateway = make(broker.ports["mqtt"], outbox="commit_ms = 0", routes=(
            f'[broker]\nurl = "mqtt://{HOST}:{house.port}"\nfilters = ["house/#"]\n'
            + through(MicroSocks, link.port)))
        wait_until(lambda: gateway.bridge and gateway.bridge.local_broker
                   and gateway.bridge.local_broker.link.connected, 10.0, "connected")
        wait_until(lambda: (producer.publish("house/x", b"1"),
                            any(a.topic == "house/x" for a in judge.arrivals))[1], 10.0, "came")
        assert link.counts.connections == 1


def test_wrong_password_is_told_and_not_shown(
        broker: Broker, kind: type[OtherProxy], make: Make, tmp_path: Path,
        caplog: pytest.LogCaptureFixture) -> None:
    said = {"socks5": "auth", "http": "401"}[kind.scheme]  # tinyproxy has 407 for no password
    with kind(tmp_path / "proxy", LOGIN) as served:
        gateway = make(broker.ports["mqtt"],
                       upstream=through(kind, served.port, login(broker, "wrong")))
        reason = away(gateway)
        assert f"proxy {HOST}:{served.port}: " in reason
        assert said in reason.lower()
        assert f"upstream away reason='{reason}'" in caplog.text
        assert "wrong-one" not in caplog.text + reason
        send(gateway, "kept")
        assert gateway.status()["depth"] == COUNT


def test_proxy_that_is_not_there_is_told(broker: Broker, kind: type[OtherProxy],
                                         make: Make) -> None:
    port = free_port()
    gateway = make(broker.ports["mqtt"], upstream=through(kind, port))
    assert away(gateway) == f"proxy {HOST}:{port}: Connection refused"


def test_broker_that_the_proxy_cannot_reach_is_told(kind: type[OtherProxy], make: Make,
                                                    tmp_path: Path) -> None:
    said = {"socks5": "Connection refused by destination host", "http": "500 Unable to connect"}
    with kind(tmp_path / "proxy") as served:
        gateway = make(free_port(), upstream=through(kind, served.port))
        assert away(gateway) == f"proxy {HOST}:{served.port}: {said[kind.scheme]}"


def test_port_that_the_proxy_forbids_is_told(broker: Broker, make: Make, tmp_path: Path) -> None:
    with TinyProxy(tmp_path / "proxy", connect_port=443) as served:
        gateway = make(broker.ports["mqtt"], upstream=through(TinyProxy, served.port))
        assert away(gateway) == f"proxy {HOST}:{served.port}: 403 Access violation"


def test_proxy_that_hangs_is_told_and_tried_again(
        broker: Broker, kind: type[OtherProxy], make: Make,
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paho_session, "CONNECT_TIMEOUT_S", 0.2)
    with socket.create_server((HOST, 0)) as silent:
        port = silent.getsockname()[1]
        gateway = make(broker.ports["mqtt"], upstream=through(kind, port))
        assert away(gateway) == f"proxy {HOST}:{port}: no answer within 0.2 s"
        silent.settimeout(20.0)
        for _ in range(2):
            silent.accept()[0].close()


@pytest.mark.parametrize("scheme", KINDS)
def test_proxy_that_speaks_something_else_is_told(scheme: str) -> None:
    with socket.create_server((HOST, 0)) as server:
        def answer() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(1000)
                peer.sendall(b"SSH-2.0-\r\n\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        port = server.getsockname()[1]
        with pytest.raises(UnreachableError, match=f"^proxy {HOST}:{port}: .+"):
            proxy.connect(Proxy(scheme, HOST, port, "", ""), "broker", 1883, 5.0)
        thread.join()


def test_answer_of_an_http_proxy_may_come_in_pieces() -> None:
    with socket.create_server((HOST, 0)) as server:
        def answer() -> None:
            peer, _ = server.accept()
            with peer:
                peer.recv(1000)
                peer.sendall(b"HTTP/1.1 200 Connection established\r\nVia: 1.1")
                select.select([peer], [], [], 0.2)  # for one who believes that this was all
                peer.sendall(b" somebody\r\n\r\n")
                peer.sendall(peer.recv(1000).upper())

        thread = threading.Thread(target=answer)
        thread.start()
        sock = proxy.connect(Proxy("http", HOST, server.getsockname()[1], "", ""), "b", 1883, 5.0)
        with sock:
            sock.sendall(b"hello")
            assert sock.recv(100) == b"HELLO"
        thread.join()
