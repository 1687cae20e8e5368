"""An MQTT 3.1.1 client of bare bytes, to do what no library would; nothing of gateway/ in it."""

from __future__ import annotations

import socket
import struct
import time

from tools.lifetime import Closeable
from tools.ports import HOST


def packet(head: int, body: bytes) -> bytes:
    """Return a packet: first byte, remaining length, body."""
    length, size = len(body), b""
    while True:
        length, byte = length >> 7, length & 127
        size += bytes([byte | (128 if length else 0)])
        if not length:
            return bytes([head]) + size + body


def text(value: str | bytes) -> bytes:
    """Return a string with its length in front."""
    raw = value.encode() if isinstance(value, str) else value
    return struct.pack(">H", len(raw)) + raw


def connect(client_id: str, *, clean: bool = True, keepalive_s: int = 0, level: int = 4,
            will: tuple[str, bytes, int, bool] | None = None) -> bytes:
    """Return a CONNECT; will: topic, payload, QoS, retained."""
    flags, rest = clean << 1, b""
    if will is not None:
        flags |= 4 | will[2] << 3 | will[3] << 5
        rest = text(will[0]) + text(will[1])
    return packet(0x10, text("MQTT") + bytes([level, flags]) + struct.pack(">H", keepalive_s)
                  + text(client_id) + rest)


def publish(topic: str, payload: bytes, qos: int = 0, mid: int = 0, *, dup: bool = False,
            retain: bool = False) -> bytes:
    """Return a PUBLISH."""
    return packet(0x30 | dup << 3 | qos << 1 | retain,
                  text(topic) + (struct.pack(">H", mid) if qos else b"") + payload)


def pubrel(mid: int) -> bytes:
    """Return a PUBREL."""
    return packet(0x62, struct.pack(">H", mid))


class RawClient(Closeable):
    """One connection. Reads return (first byte, body); None when the peer has closed.

    receive_bytes: of the kernel's buffer, 0 for its own choice; a small one makes a slow reader.
    sock: one that is connected already.
    """

    def __init__(self, port: int, *, receive_bytes: int = 0,
                 sock: socket.socket | None = None) -> None:
        self.sock = sock or socket.socket()
        if receive_bytes:  # before it connects: it limits the window that is offered
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        if sock is None:
            self.sock.settimeout(10.0)
            self.sock.connect((HOST, port))
        self._rest = b""

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self.sock.sendall(data)

    def read(self, timeout_s: float = 10.0) -> tuple[int, bytes] | None:
        """Return the next packet; raises TimeoutError after timeout_s [s]."""
        deadline = time.monotonic() + timeout_s
        while True:
            found = self._cut()
            if found is not None:
                return found
            self.sock.settimeout(max(0.001, deadline - time.monotonic()))
            try:
                data = self.sock.recv(65536)
            except ConnectionError:
                return None
            if not data:
                return None
            self._rest += data

    @property
    def began(self) -> bool:
        """Whether a packet is here in part."""
        return bool(self._rest)

    def _cut(self) -> tuple[int, bytes] | None:
        length = shift = 0
        for at, byte in enumerate(self._rest[1:5], 2):
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                if len(self._rest) < at + length:
                    return None
                head, body = self._rest[0], self._rest[at:at + length]
                self._rest = self._rest[at + length:]
                return head, body
        return None

    def open(self, client_id: str, **how: object) -> int:
        """CONNECT and return the CONNACK's session present flag; raises when it was refused."""
        self.send(connect(client_id, **how))  # type: ignore[arg-type]
        answer = self.read()
        if answer is None or answer[0] != 0x20 or answer[1][1]:
            raise ConnectionError(f"refused: {answer}")
        return answer[1][0]

    def closed(self, timeout_s: float = 10.0) -> bool:
        """Wait until the peer closes, whatever it says before that."""
        while self.read(timeout_s) is not None:
            pass
        return True

    def close(self) -> None:
        """Close without DISCONNECT."""
        self.sock.close()
