"""One end of a connection that misbehaves at a byte: TCP, TLS or WebSocket, by hand.

The fault is at the bottom, so its offset counts what is on the wire.
"""

from __future__ import annotations

import base64
import hashlib
import select
import socket
import ssl
import struct
import time
from dataclasses import dataclass
from typing import Literal, Protocol

RST = struct.pack("ii", 1, 0)
LOOK_S = 0.02
PAUSE_S = 0.004
_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

How = Literal["reset", "close", "stall", "fragment"]
Direction = Literal["in", "out"]


class HitError(Exception):
    """The byte was reached, and it was done."""


class ClosedError(Exception):
    """The other end has closed."""


@dataclass
class Fault:
    """What happens after `offset` bytes of a direction, as seen by who misbehaves.

    fragment (only `out`): a pause there, and what follows byte by byte.
    """

    how: How
    direction: Direction
    offset: int


class Layer(Protocol):
    """What carries MQTT. recv returns b"" where nothing came for LOOK_S."""

    def recv(self) -> bytes: ...
    def send(self, data: bytes) -> None: ...


class Raw:
    """A TCP socket and its fault."""

    def __init__(self, sock: socket.socket, fault: Fault | None = None) -> None:
        self.sock, self._fault = sock, fault
        self.fragmented = False
        self._left = {"in": 1 << 60, "out": 1 << 60}
        if fault is not None:
            self._left[fault.direction] = fault.offset
        sock.settimeout(LOOK_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def recv(self) -> bytes:
        """Raises ClosedError, HitError."""
        if not self._left["in"]:
            raise HitError
        try:
            data = self.sock.recv(min(65536, self._left["in"]))
        except TimeoutError:
            return b""
        except OSError as error:
            raise ClosedError from error
        if not data:
            raise ClosedError
        self._left["in"] -= len(data)
        return data

    def send(self, data: bytes) -> None:
        """Raises ClosedError, HitError."""
        part = data[:self._left["out"]]
        try:
            if part:
                self.sock.sendall(part)
            self._left["out"] -= len(part)
            if len(part) == len(data):
                return
            if self._fault is None or self._fault.how != "fragment":
                raise HitError
            self.fragmented, self._left["out"] = True, 1 << 60
            for at in range(len(part), len(data)):
                time.sleep(PAUSE_S if at < len(part) + 3 else 0)
                self.sock.sendall(data[at:at + 1])
        except OSError as error:
            raise ClosedError from error

    def misbehave(self) -> None:
        """Reset or close at once."""
        if self._fault is not None and self._fault.how == "reset":
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
        self.sock.close()

    def given_up(self, within_s: float) -> bool:
        """Stand still until the other end closes; False where it does not within_s [s]."""
        poll = select.poll()
        poll.register(self.sock, select.POLLRDHUP | select.POLLHUP | select.POLLERR)
        gone = bool(poll.poll(within_s * 1000))
        self.sock.close()
        return gone


class Tls:
    """TLS over a Raw. server: whose part we play."""

    def __init__(self, raw: Raw, context: ssl.SSLContext, *, server: bool = True) -> None:
        self._raw = raw
        self._in, self._out = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._in, self._out, server_side=server)
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                self._flush()
                self._in.write(raw.recv())
            except ssl.SSLError as error:
                raise ClosedError from error
            else:
                break
        self._flush()

    def _flush(self) -> None:
        if self._out.pending:
            self._raw.send(self._out.read())

    def recv(self) -> bytes:
        """See Raw."""
        self._in.write(self._raw.recv())
        try:
            data: bytes = self._tls.read(65536)
        except ssl.SSLWantReadError:
            return b""
        except ssl.SSLError as error:
            raise ClosedError from error
        if not data:
            raise ClosedError
        return data

    def send(self, data: bytes) -> None:
        """See Raw."""
        self._tls.write(data)
        self._flush()


class WebSocket:
    """The server's end of a WebSocket (RFC 6455), as far as a test needs it."""

    def __init__(self, raw: Raw) -> None:
        self._raw, self._rest = raw, b""
        request = b""
        while b"\r\n\r\n" not in request:
            request += raw.recv()
        key = next(line.split(b":", 1)[1].strip() for line in request.split(b"\r\n")
                   if line.lower().startswith(b"sec-websocket-key"))
        answer = base64.b64encode(hashlib.sha1(key + _GUID).digest())
        raw.send(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                 b"Connection: Upgrade\r\nSec-WebSocket-Protocol: mqtt\r\n"
                 b"Sec-WebSocket-Accept: " + answer + b"\r\n\r\n")

    def recv(self) -> bytes:
        """See Raw."""
        self._rest += self._raw.recv()
        found = b""
        while len(self._rest) >= 6:
            length, at = self._rest[1] & 127, 2
            if length == 126:
                length, at = struct.unpack(">H", self._rest[2:4])[0], 4
            if len(self._rest) < at + 4 + length:
                break
            mask, data = self._rest[at:at + 4], self._rest[at + 4:at + 4 + length]
            self._rest = self._rest[at + 4 + length:]
            found += bytes(byte ^ mask[n % 4] for n, byte in enumerate(data))
        return found

    def send(self, data: bytes) -> None:
        """See Raw."""
        self._raw.send(b"\x82" + bytes([len(data)]) + data)
