"""A broker that misbehaves on purpose: what umqtt's faults look like from the other side.

It is a gateway as docs/contract.md has it (it acknowledges batches), and each connection gets one
`Manner` from the list, the last one for all that follow.
"""

from __future__ import annotations

import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

PIECE_S = 0.05


@dataclass
class Manner:
    """How the broker treats one connection. All defaults: well.

    silent: never answers anything. refuse: the CONNACK's code. suback: answers SUBSCRIBE.
    puback: answers QoS 1 publishes. ack: acknowledges batches. pong: answers pings.
    half: sends this much of the first acknowledgement, then nothing more.
    first: bytes to send once after the SUBACK. before_puback: bytes to send before each PUBACK.
    close_on: "connect" or "up": closes then. deaf: reads nothing after the SUBACK.
    drip: sends acknowledgements a byte at a time. first_in: `first` goes out in so many pieces,
    one each PIECE_S. stays: leaves the connection open after a DISCONNECT.
    """

    silent: bool = False
    refuse: int = 0
    suback: bool = True
    puback: bool = True
    ack: bool = True
    pong: bool = True
    half: int = 0
    first: bytes = b""
    before_puback: bytes = b""
    close_on: str = ""
    deaf: bool = False
    drip: bool = False
    first_in: int = 1
    stays: bool = False


def packet(kind: int, body: bytes) -> bytes:
    """Put a fixed header before a body (OASIS 2.2)."""
    size, rest = bytearray(), len(body)
    while True:
        rest, digit = rest >> 7, rest & 0x7F
        size.append(digit | (0x80 if rest else 0))
        if not rest:
            return bytes([kind]) + bytes(size) + body


def publish(topic: str, payload: bytes, *, retained: bool = False) -> bytes:
    """Make a PUBLISH at QoS 0."""
    name = topic.encode()
    return packet(0x31 if retained else 0x30, struct.pack("!H", len(name)) + name + payload)


@dataclass
class FakeBroker:
    """Listens on a port of 127.0.0.1, a free one by default, until close()."""

    manners: list[Manner]
    tls: ssl.SSLContext | None = None
    port: int = 0
    connections: int = 0
    have: dict[tuple[str, int], int] = field(default_factory=dict)
    records: list[tuple[int, int]] = field(default_factory=list)  # (boot, seq), new ones only
    pids: list[int] = field(default_factory=list)
    published: list[tuple[str, bytes, int, bool]] = field(default_factory=list)
    wills: int = 0
    disconnects: int = 0
    pings: int = 0
    again: int = 0  # records that came again
    holes: int = 0
    problems: list[str] = field(default_factory=list)
    news: threading.Condition = field(default_factory=threading.Condition)

    def __post_init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", self.port))
        self.port = self.listener.getsockname()[1]
        self._open: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._over = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Stop listening and drop every connection."""
        if self.listener.fileno() >= 0:
            self.listener.shutdown(socket.SHUT_RDWR)  # close() alone leaves accept() one more
            self.listener.close()
        for connection in self._open:
            connection.close()

    def settle(self) -> None:
        """Wait until all that the device sent is read; it must be gone by then."""
        self._over.set()
        for thread in self._threads:
            thread.join(timeout=5)

    def wait_for(self, last: str, count: int = 1, timeout_s: float = 10) -> list[Any]:
        """Wait until that many messages have come on .../last; give what is in them."""

        def found() -> list[bytes]:
            return [entry[1] for entry in self.published if entry[0].endswith("/" + last)]

        with self.news:
            assert self.news.wait_for(lambda: len(found()) >= count, timeout_s), self.published
            return [json.loads(payload) for payload in found()]

    def wait_until(self, holds: Callable[[], bool], timeout_s: float = 10) -> None:
        """Wait until that holds after a message."""
        with self.news:
            self.news.wait_for(holds, timeout_s)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            manner = self.manners[min(self.connections, len(self.manners) - 1)]
            self.connections += 1
            self._open.append(connection)
            thread = threading.Thread(
                target=self._serve, args=(connection, manner), daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket, manner: Manner) -> None:
        try:
            with connection:
                if self.tls and not manner.silent:
                    connection = self.tls.wrap_socket(connection, server_side=True)
                self._talk(connection, manner)
        except (OSError, EOFError):
            pass
        except Exception as error:  # told to the test: what the device sent is wrong
            self.problems.append(repr(error))

    def _talk(self, connection: socket.socket, manner: Manner) -> None:
        first = True
        while True:
            kind, body = _read_packet(connection)
            if manner.silent:
                continue
            if kind == 0x10:
                if body[:7] != b"\0\4MQTT\4":
                    self.problems.append("not MQTT 3.1.1")
                if body[7] & 0x04:
                    self.wills += 1
                if manner.close_on == "connect":
                    return
                connection.sendall(packet(0x20, bytes([0, manner.refuse])))
            elif kind == 0x82:
                if manner.suback:
                    self._pid(body)
                    connection.sendall(packet(0x90, body[:2] + b"\0"))
                    self._send(connection, manner.first, manner.first_in)
                if manner.deaf:
                    self._over.wait()
            elif kind == 0xC0:
                self.pings += 1
                if manner.pong:
                    connection.sendall(b"\xd0\0")
            elif kind == 0xE0:
                self.disconnects += 1
                if not manner.stays:
                    return
            elif kind & 0xF0 == 0x30:
                topic, payload, pid = self._publish(kind, body)
                if topic.endswith("/up") and manner.close_on == "up":
                    return
                answer = self._batch(topic, payload) if topic.endswith("/up") else b""
                with self.news:
                    self.news.notify_all()
                if pid and manner.puback:
                    connection.sendall(manner.before_puback + packet(0x40, pid))
                if answer and manner.half and first:
                    connection.sendall(answer[: manner.half])
                    manner.silent = True
                elif answer and manner.ack:
                    for piece in [answer[i : i + 1] for i in range(len(answer))] if (
                        manner.drip
                    ) else [answer]:
                        connection.sendall(piece)
                first = first and not answer
            else:
                self.problems.append(f"packet of type {kind >> 4}")

    def _send(self, connection: socket.socket, data: bytes, pieces: int) -> None:
        size = -(-len(data) // pieces) or 1
        for at in range(0, len(data), size):
            connection.sendall(data[at : at + size])
            if pieces > 1:
                self._over.wait(PIECE_S)

    def _publish(self, kind: int, body: bytes) -> tuple[str, bytes, bytes]:
        length = struct.unpack_from("!H", body)[0]
        topic, rest = body[2 : 2 + length].decode(), body[2 + length :]
        pid = b""
        if kind & 0x06:
            self._pid(rest)
            pid, rest = rest[:2], rest[2:]
        with self.news:
            self.published.append((topic, rest, kind >> 1 & 3, bool(kind & 1)))
            self.news.notify_all()
        return topic, rest, pid

    def _pid(self, body: bytes) -> None:
        pid = struct.unpack_from("!H", body)[0]
        if not pid:
            self.problems.append("packet identifier 0")
        self.pids.append(pid)

    def _batch(self, topic: str, payload: bytes) -> bytes:
        data: dict[str, Any] = json.loads(payload)
        key = data["life"], data["boot"]
        have = self.have.get(key, 0)
        seq = data["seq"]
        if data["low"] > have + 1:
            have = data["low"] - 1
        for number in range(seq, seq + len(data["recs"])):
            if number == have + 1:
                have = number
                self.records.append((data["boot"], number))
            elif number <= have:
                self.again += 1
            else:
                self.holes += 1
        self.have[key] = have
        ack = {"v": 1, "life": key[0], "boot": key[1], "seq": have, "utc_ms": 1764000000000}
        return publish(topic.replace("/up", "/down/ack"), json.dumps(ack).encode())


def _read(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = connection.recv(size - len(data))
        if not piece:
            raise EOFError
        data += piece
    return data


def _read_packet(connection: socket.socket) -> tuple[int, bytes]:
    kind = _read(connection, 1)[0]
    size = shift = 0
    while True:
        byte = _read(connection, 1)[0]
        size |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            return kind, _read(connection, size)
