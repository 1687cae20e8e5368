"""Peers that take or send a long message slowly: they are there, and nothing is dropped."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tools.gateway_thread import Make
from tools.lifetime import Closeable
from tools.ports import HOST
from tools.raw_client import RawClient, packet, publish
from tools.waiting import wait_until

LONG = 200_000
QUICK = "commit_ms = 0"


class SlowBroker(Closeable):
    """At 3.1.1; takes so many bytes a second, acknowledges at once, and resets after
    `resets_after` bytes of each connection but the last."""

    def __init__(self, bytes_per_s: int, *resets_after: int) -> None:
        self.received: list[bytes] = []  # payloads of PUBLISHes
        self.links = 0
        self._bytes_per_s, self._resets_after = bytes_per_s, list(resets_after)
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        self._listener.bind((HOST, 0))
        self._listener.listen()
        self.port: int = self._listener.getsockname()[1]
        self._over = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self.links += 1
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        data, most = b"", self._resets_after.pop(0) if self._resets_after else 1 << 60
        step = self._bytes_per_s // 20
        with sock:
            while most > 0 and not self._over.wait(0.05):
                try:
                    part = sock.recv(min(step, most))
                    most -= len(part)
                    data = self._answer(sock, data + part)
                except OSError:
                    return
                if not part:
                    return

    def _answer(self, sock: socket.socket, data: bytes) -> bytes:
        while len(data) > 1:
            length = shift = 0
            at = 1
            while at < len(data):
                length |= (data[at] & 127) << shift
                shift, at = shift + 7, at + 1
                if data[at - 1] < 128:
                    break
            if len(data) < at + length:
                break
            head, body, data = data[0], data[at:at + length], data[at + length:]
            kind, qos = head >> 4, head >> 1 & 3
            if kind == 1:
                sock.sendall(packet(0x20, b"\0\0"))
            elif kind == 3:
                size = 2 + int.from_bytes(body[:2], "big")
                self.received.append(body[size + 2 * (qos > 0):])
                if qos:
                    sock.sendall(packet(0x40 if qos == 1 else 0x50, body[size:size + 2]))
            elif kind == 6:
                sock.sendall(packet(0x70, body[:2]))
            elif kind == 12:
                sock.sendall(packet(0xD0, b""))
        return data

    def close(self) -> None:
        self._over.set()
        self._listener.close()


@pytest.fixture
def slow() -> Iterator[list[SlowBroker]]:
    brokers: list[SlowBroker] = []
    yield brokers
    for broker in brokers:
        broker.close()


@pytest.mark.parametrize("qos", [0, 2])
def test_message_that_takes_longer_than_any_deadline_arrives_once(
        make: Make, slow: list[SlowBroker], qos: int) -> None:
    broker = SlowBroker(16_000)  # 12.5 s
    slow.append(broker)
    gateway = make(broker.port, outbox=QUICK, upstream="ack_timeout_s = 2",
                   routes='[[route]]\nfilter = "#"\nupgrade = 0')
    gateway.wait_connected()
    before = gateway.status()["upstream_connects"]
    with RawClient(gateway.port) as client:
        client.open("sender")
        for payload in (bytes(LONG), b"after"):
            client.send(publish("t", payload, qos, 1 if qos else 0))
            if qos:
                assert client.read() == (0x50, b"\0\1")
                client.send(packet(0x62, b"\0\1"))
                assert client.read() == (0x70, b"\0\1")
        wait_until(lambda: b"after" in broker.received, 60, "all of it")
    gateway.wait_for("depth", 0, 20)
    assert [len(p) for p in broker.received if p != b"online"] == [LONG, 5]
    assert gateway.status()["upstream_connects"] == before


def test_qos_0_that_had_not_left_when_the_link_fell_is_sent_again(
        make: Make, slow: list[SlowBroker]) -> None:
    broker = SlowBroker(100_000, 1 << 20, 300_000)  # the first connection forgets the old session
    slow.append(broker)
    gateway = make(broker.port, outbox=QUICK,
                   routes='[[route]]\nfilter = "#"\nupgrade = 0')
    gateway.wait_connected()
    total = 100
    with RawClient(gateway.port) as client:
        client.open("sender")
        for number in range(total):
            client.send(publish("t", b"%d " % number + bytes(10_000)))
        wait_until(lambda: gateway.status()["counts"]["received"] >= total)
        assert gateway.status()["depth"] > total / 2  # what is written is not delivered
        gateway.wait_for("depth", 0, 60)
    assert broker.links == 3
    arrived = [int(p.split()[0]) for p in broker.received if p != b"online"]
    # the other end's kernel may have taken some that its program then never read
    assert len(set(range(total)) - set(arrived)) <= 10
    again = [n for n, later in itertools.pairwise(arrived) if later <= n]
    assert len(again) <= 1, "in order, but for where the link fell"


def test_device_that_sends_or_reads_slowly_is_not_taken_for_gone(
        make: Make, slow: list[SlowBroker]) -> None:
    broker = SlowBroker(1 << 20)
    slow.append(broker)
    gateway = make(broker.port, outbox=QUICK)
    with RawClient(gateway.port, receive_bytes=4096) as reader, \
            RawClient(gateway.port) as sender:
        reader.open("reader", keepalive_s=1)
        reader.send(packet(0x82, b"\0\1\0\1t\0"))
        assert reader.read() == (0x90, b"\0\1\0")
        sender.open("sender", keepalive_s=1)
        whole = publish("t", bytes(LONG), 1, 1)
        for at in range(40):  # 4 s: more than two keepalives, and no whole packet
            sender.send(whole[at:at + 1])
            time.sleep(0.1)
            reader.send(b"\xc0\x00")
        sender.send(whole[40:] + whole)
        assert [sender.read(), sender.read()] == [(0x40, b"\0\1")] * 2
        got, began_s = 0, time.monotonic()
        while got < 1.5 * LONG:  # and not one PINGREQ meanwhile
            got += len(reader.sock.recv(4096))
            time.sleep(0.05)
            sender.send(b"\xc0\x00")
        assert time.monotonic() - began_s > 3
    assert gateway.status()["closed"] == {}
