"""The fault proxy does to a link what it was told, and nothing else."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tools.ports import HOST, free_port
from tools.proxy_link import Fault, corrupt_bytes
from tools.proxy_thread import ProxyThread


class EchoServer:
    """Sends back what comes, on every connection."""

    def __init__(self) -> None:
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._echo, args=(sock,), daemon=True).start()

    def _echo(self, sock: socket.socket) -> None:
        with sock:
            try:
                while data := sock.recv(65536):
                    sock.sendall(data)
            except OSError:
                pass

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def proxy() -> Iterator[ProxyThread]:
    echo = EchoServer()
    with ProxyThread(echo.port) as running:
        yield running
    echo.close()


@pytest.fixture
def sock(proxy: ProxyThread) -> Iterator[socket.socket]:
    with socket.create_connection((HOST, proxy.port), timeout=5.0) as connected:
        yield connected


def test_listens_on_its_host_and_nowhere_else() -> None:
    echo = EchoServer()
    with ProxyThread(echo.port, host="127.0.0.2") as running:
        with socket.create_connection(("127.0.0.2", running.port), timeout=5.0) as connected:
            assert exchange(connected, b"hello") == b"hello"
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((HOST, running.port), timeout=5.0)
    echo.close()


def exchange(sock: socket.socket, data: bytes) -> bytes:
    sock.sendall(data)
    return receive(sock, len(data))


def receive(sock: socket.socket, size: int) -> bytes:
    got = b""
    while len(got) < size and (piece := sock.recv(size - len(got))):
        got += piece
    return got


def receive_until_error(sock: socket.socket) -> tuple[bytes, type[OSError] | None]:
    got = b""
    try:
        while piece := sock.recv(10):
            got += piece
    except OSError as error:
        return got, type(error)
    return got, None


def is_silent(sock: socket.socket, timeout_s: float = 0.2) -> bool:
    sock.settimeout(timeout_s)
    try:
        sock.recv(1)
    except TimeoutError:
        return True
    finally:
        sock.settimeout(5.0)
    return False


def test_proxy_without_fault_passes_all_bytes(proxy: ProxyThread, sock: socket.socket) -> None:
    data = random.Random(1).randbytes(1_000_000)
    sender = threading.Thread(target=sock.sendall, args=(data,))
    sender.start()
    assert receive(sock, len(data)) == data
    sender.join()
    assert proxy.counts.bytes_up == proxy.counts.bytes_down == len(data)


def test_proxy_passes_the_end_on(sock: socket.socket) -> None:
    sock.sendall(b"last")
    sock.shutdown(socket.SHUT_WR)
    assert receive(sock, 100) == b"last"


def test_cut_resets_the_connection(proxy: ProxyThread, sock: socket.socket) -> None:
    assert exchange(sock, b"a") == b"a"
    assert proxy.cut() == 1
    with pytest.raises(ConnectionResetError):
        sock.recv(1)


def test_cut_without_reset_ends_in_order(proxy: ProxyThread, sock: socket.socket) -> None:
    assert exchange(sock, b"a") == b"a"
    proxy.cut(reset=False)
    assert sock.recv(1) == b""


def test_cut_after_ends_in_the_middle(proxy: ProxyThread, sock: socket.socket) -> None:
    proxy.set_fault(Fault(cut_after=3), "down")
    sock.sendall(b"abcdef")
    got, error = receive_until_error(sock)
    assert error is ConnectionResetError
    assert b"abc".startswith(got)  # what a reset overtakes is gone
    with socket.create_connection((HOST, proxy.port), timeout=5.0) as again:
        assert exchange(again, b"abcdef") == b"abcdef"  # cut once


@pytest.mark.parametrize("directions", [(), ("up",), ("down",)])
def test_blackhole_is_silent_and_loses_nothing(
    proxy: ProxyThread, sock: socket.socket, directions: tuple[()]
) -> None:
    assert exchange(sock, b"a") == b"a"
    proxy.set_fault(Fault(blackhole=True), *directions)
    sock.sendall(b"bc")
    assert is_silent(sock)
    proxy.heal()
    assert receive(sock, 2) == b"bc"


def test_blackhole_hides_the_end_of_the_other_side(proxy: ProxyThread) -> None:
    listener = socket.create_server((HOST, 0))
    with ProxyThread(listener.getsockname()[1]) as relay:
        client = socket.create_connection((HOST, relay.port), timeout=5.0)
        server, _ = listener.accept()
        relay.set_fault(Fault(blackhole=True))
        server.close()
        assert is_silent(client)
        relay.heal()
        assert client.recv(1) == b""
        client.close()
    listener.close()


def test_latency_delays_each_way(proxy: ProxyThread, sock: socket.socket) -> None:
    proxy.set_fault(Fault(latency_s=0.1))
    start = time.monotonic()
    assert exchange(sock, b"a") == b"a"
    assert time.monotonic() - start >= 0.2


def test_jitter_keeps_the_order(proxy: ProxyThread, sock: socket.socket) -> None:
    proxy.set_fault(Fault(jitter_s=0.01))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    data = bytes(range(100))
    for value in data:
        sock.sendall(bytes([value]))
    assert receive(sock, len(data)) == data


def test_bandwidth_is_limited(proxy: ProxyThread, sock: socket.socket) -> None:
    proxy.set_fault(Fault(bytes_per_s=20_000), "up")
    data = bytes(6_000)
    start = time.monotonic()
    assert exchange(sock, data) == data
    assert time.monotonic() - start >= 0.25


def test_corruption_is_counted_and_repeatable(proxy: ProxyThread, sock: socket.socket) -> None:
    proxy.set_fault(Fault(corrupt=0.01), "up")
    got = exchange(sock, bytes(10_000))
    changed = sum(byte != 0 for byte in got)
    assert changed == proxy.counts.corrupted > 0
    data = bytes(1000)
    assert corrupt_bytes(data, 0.1, random.Random(7)) == corrupt_bytes(data, 0.1, random.Random(7))


def test_refuse_resets_new_connections(proxy: ProxyThread, sock: socket.socket) -> None:
    assert exchange(sock, b"a") == b"a"
    proxy.refuse()
    with (
        pytest.raises(ConnectionResetError),
        socket.create_connection((HOST, proxy.port), timeout=5.0) as other,
    ):
        other.recv(1)
    assert exchange(sock, b"b") == b"b"


def test_target_away_resets_the_client() -> None:
    with (
        ProxyThread(free_port()) as relay,
        pytest.raises(ConnectionResetError),
        socket.create_connection((HOST, relay.port), timeout=5.0) as client,
    ):
        client.recv(1)
