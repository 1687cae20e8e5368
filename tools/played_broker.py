"""A broker with a persistent session that a test plays itself, one connection after the other.

It delivers by method A of section 4.3.3 (with the PUBLISH), keeps packet identifiers until PUBREL
and what it sends until it is acknowledged, in sessions that outlive its connections. It shares no
line with gateway/.
"""

from __future__ import annotations

import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable

from tools.lifetime import Closeable
from tools.played_wire import ClosedError, Fault, HitError, Layer, Raw, Tls, WebSocket
from tools.ports import HOST
from tools.raw_client import packet, text

GIVEN_UP_S = 10.0
"""A stall must end within this time; the quick gateway's deadlines are below 1 s."""


class PlayedBroker(Closeable):
    """Listens on a free loopback port. carrier: tcp, tls or ws.

    delivered: payloads that came, each once for each delivery. owed: what it sends to the client,
    by packet identifier: QoS, payload, and how far that is.
    """

    def __init__(self, *, v5: bool = False, carrier: str = "tcp",
                 context: ssl.SSLContext | None = None) -> None:
        self.v5, self.carrier = v5, carrier
        self.delivered: Counter[bytes] = Counter()
        self.owed: dict[int, tuple[int, bytes, str]] = {}
        self.subscribed = False
        self._context = context
        self._session = False
        self._held: set[int] = set()
        self._next_mid = 0
        self._listener = socket.create_server((HOST, 0), backlog=64)
        self.port: int = self._listener.getsockname()[1]
        self._sock: socket.socket | None = None

    def send_later(self, qos: int, payload: bytes) -> None:
        """Publish to the client as soon as it is there."""
        self._next_mid = self._next_mid % 60_000 + 1
        self.owed[self._next_mid] = qos, payload, "new"

    def holds(self) -> bool:
        """Whether a PUBREL is to come."""
        return bool(self._held)

    def forget(self) -> None:
        """Forget the session and who subscribed, with nothing owed."""
        self._session = self.subscribed = False
        self._held.clear()

    def meet(self, fault: Fault | None, done: Callable[[], bool], timeout_s: float = 20.0) -> bool:
        """Serve connections until the fault was met (True) or `done` (False).

        Raises TimeoutError, and where a stall was not given up.
        """
        until_s = time.monotonic() + timeout_s
        while time.monotonic() < until_s:
            self._listener.settimeout(max(0.01, until_s - time.monotonic()))
            sock, _ = self._listener.accept()
            raw = Raw(sock, fault)
            try:
                if self._serve(raw, done, until_s):
                    sock.close()
                    return raw.fragmented
            except ClosedError:
                sock.close()
            except HitError:
                if fault is not None and fault.how == "stall":
                    if not raw.given_up(GIVEN_UP_S):
                        raise TimeoutError(f"{fault} was not given up") from None
                else:
                    raw.misbehave()
                return True
        raise TimeoutError("nobody came, or it did not end")

    def _serve(self, raw: Raw, done: Callable[[], bool], until_s: float) -> bool:
        layer: Layer = raw
        if self.carrier == "tls":
            assert self._context is not None
            layer = Tls(raw, self._context)
        elif self.carrier == "ws":
            layer = WebSocket(raw)
        data = b""
        while time.monotonic() < until_s:
            data += layer.recv()
            while (found := _cut(data)) is not None:
                head, body, data = found
                self._take(layer, head, body)
            if not data and done():
                return True
        return False

    def _take(self, layer: Layer, head: int, body: bytes) -> None:
        kind = head >> 4
        if kind == 1:
            self._connected(layer, body)
        elif kind == 3:
            self._publish(layer, head, body)
        elif kind == 4:
            self.owed.pop(int.from_bytes(body[:2], "big"), None)
        elif kind == 5:
            mid = int.from_bytes(body[:2], "big")
            if mid in self.owed:
                self.owed[mid] = *self.owed[mid][:2], "released"
            layer.send(packet(0x62, body[:2]))
        elif kind == 6:
            self._held.discard(int.from_bytes(body[:2], "big"))
            layer.send(packet(0x70, body[:2]))
        elif kind == 7:
            self.owed.pop(int.from_bytes(body[:2], "big"), None)
        elif kind == 8:
            layer.send(packet(0x90, body[:2] + b"\0" * self.v5 + b"\2"))
            self.subscribed = True
            self._owe(layer, dup=False)
        elif kind == 12:
            layer.send(packet(0xD0, b""))
        elif kind == 14:
            raise ClosedError

    def _connected(self, layer: Layer, body: bytes) -> None:
        clean = bool(body[7] & 2)
        if clean:
            self._session = self.subscribed = False
            self._held.clear()
        layer.send(packet(0x20, bytes([self._session, 0]) + b"\0" * self.v5))
        self._session = self._session or not clean
        if self.subscribed:
            self._owe(layer, dup=True)

    def _owe(self, layer: Layer, *, dup: bool) -> None:
        for mid, (qos, payload, state) in list(self.owed.items()):
            if state == "released":
                layer.send(packet(0x62, mid.to_bytes(2, "big")))
                continue
            again = dup and state == "sent"
            self.owed[mid] = qos, payload, "sent"
            layer.send(packet(0x30 | again << 3 | qos << 1, text("house/t")
                              + mid.to_bytes(2, "big") + b"\0" * self.v5 + payload))

    def _publish(self, layer: Layer, head: int, body: bytes) -> None:
        qos, at = head >> 1 & 3, 2 + int.from_bytes(body[:2], "big")
        mid = body[at:at + 2] if qos else b""
        payload = body[at + len(mid):]
        if self.v5:
            payload = payload[1 + payload[0]:]
        number = int.from_bytes(mid, "big")
        if qos != 2 or number not in self._held:
            self.delivered[payload] += 1
        if qos == 2:
            self._held.add(number)
        if qos:
            layer.send(packet(0x40 if qos == 1 else 0x50, mid))

    def close(self) -> None:
        """Stop listening."""
        self._listener.close()


def _cut(data: bytes) -> tuple[int, bytes, bytes] | None:
    """The first packet of data: first byte, body, and what follows."""
    length = shift = 0
    at = 1
    while at < len(data):
        length |= (data[at] & 127) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 128:
            if len(data) < at + length:
                return None
            return data[0], data[at:at + length], data[at + length:]
    return None
