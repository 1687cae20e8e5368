"""A peer that resets in the middle of an exchange: the gateway goes on and can be stopped.

The gateway is a process of its own: a deadlock of its event loop would stop a thread's test too.
"""

from __future__ import annotations

import os
import signal
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tools.gateway_process import Gateway
from tools.lifetime import Closeable
from tools.ports import HOST
from tools.raw_client import RawClient, publish
from tools.waiting import wait_until

CONNACK = {"3.1.1": bytes.fromhex("20020000"), "5": bytes.fromhex("2003000000")}
RST = struct.pack("ii", 1, 0)
TRIES = 4


class Resetting(Closeable):
    """Accepts, reads the CONNECT, says CONNACK and resets, all before the client can look."""

    def __init__(self, connack: bytes, frozen: Callable[[bool], None]) -> None:
        self.resets = 0
        self._connack, self._frozen = connack, frozen
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.settimeout(10)
            try:
                sock.recv(4096)
                self._frozen(True)
                sock.sendall(self._connack)
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
                sock.close()
            except OSError:
                sock.close()
            finally:
                self._frozen(False)
            self.resets += 1

    def close(self) -> None:
        self._listener.close()


@pytest.fixture
def gateway_with(tmp_path: Path) -> Iterator[Callable[..., Gateway]]:
    running: list[Gateway] = []

    def start(link: str, port: int, protocol: str) -> Gateway:
        idle = socket.create_server((HOST, 0))  # what the other link connects to: says nothing
        silent[:] = [idle]
        other = idle.getsockname()[1]
        if link == "upstream":
            gateway = Gateway(tmp_path, port, settings=f'protocol = "{protocol}"\n')
        else:
            gateway = Gateway(tmp_path, other, settings=f'[broker]\nprotocol = "{protocol}"\n'
                                                        f'url = "mqtt://{HOST}:{port}"\n')
        running.append(gateway)
        gateway.start()
        return gateway

    silent: list[socket.socket] = []
    yield start
    for gateway in running:
        gateway.kill()
    for sock in silent:
        sock.close()


@pytest.mark.parametrize("link", ["upstream", "broker"])
@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
def test_reset_right_behind_the_connack_stops_nothing(
        gateway_with: Callable[..., Gateway], link: str, protocol: str) -> None:
    gateways: list[Gateway] = []

    def frozen(stop: bool) -> None:
        if gateways and gateways[0].running:
            os.kill(gateways[0].child.pid, signal.SIGSTOP if stop else signal.SIGCONT)

    with Resetting(CONNACK[protocol], frozen) as broker:
        gateway = gateway_with(link, broker.port, protocol)
        gateways.append(gateway)
        with RawClient(gateway.port) as device:
            device.open("device")
            device.send(publish("t", b"x", 1, 1))
            assert device.read() == (0x40, b"\0\1")
        wait_until(lambda: broker.resets >= TRIES, 40, "another try")
        status = gateway.status()
        assert status is not None
        assert status["depth"] >= 1
        gateways.clear()
    assert gateway.stop() == 0


class Saying(Closeable):
    """Answers each connection with the next of some bytes; the last of them for ever, a byte at a
    time."""

    def __init__(self, *answers: bytes) -> None:
        self.links = 0
        self._answers = list(answers)
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._over = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            answer = self._answers[min(self.links, len(self._answers) - 1)]
            last = self.links >= len(self._answers) - 1
            self.links += 1
            threading.Thread(target=self._say, args=(sock, answer, last), daemon=True).start()

    def _say(self, sock: socket.socket, answer: bytes, last: bool) -> None:
        try:
            sock.settimeout(10)
            sock.recv(4096)
            sock.sendall(answer)
            while last and not self._over.wait(0.2):
                sock.sendall(b"x")
            sock.recv(4096)  # until the other end closes
        except OSError:
            pass
        finally:
            sock.close()

    def close(self) -> None:
        self._over.set()
        self._listener.close()


def test_handshakes_that_nobody_foresaw_and_one_that_never_ends_stop_nothing(
        tmp_path: Path) -> None:
    answers = [b"HTTP/1.1 101 OK\r\nSec-WebSocket-Accept:\r\n\r\n",  # paho: IndexError
               b"HTTP/1.1 101 OK\r\nConnection: \xff\xff\r\n\r\n", b"\r\n\r\n",
               b"HTTP/1.1 101 OK\r\nx: "]
    with Saying(*answers) as broker, Gateway(tmp_path, broker.port, scheme="ws") as gateway:
        wait_until(lambda: broker.links >= len(answers), 40, "another try")
        with RawClient(gateway.port) as device:
            device.open("device")
            device.send(publish("t", b"x", 1, 1))
            assert device.read() == (0x40, b"\0\1")
        assert gateway.status() is not None
        assert gateway.stop() == 0  # while the last one lasts
