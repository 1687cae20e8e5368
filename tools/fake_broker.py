"""An MQTT broker that does what a test asks for, to see how a client takes it.

It says limits in its CONNACK and notes whether they are kept; it can stay silent on a message,
refuse it, close on it, or stop reading. It shares no line with gateway/.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field

from tools.lifetime import Closeable
from tools.ports import HOST
from tools.raw_client import packet

IDLE_S = 0.03
"""Acknowledgements are kept back until the client pauses for so long: it then has all in flight
that it dares."""

PUBLISH, PUBREL = 3, 6


@dataclass(frozen=True)
class Received:
    """One PUBLISH as it came."""

    connection: int
    topic: str
    payload: bytes
    qos: int
    retain: bool
    dup: bool
    mid: int


@dataclass
class Behaviour:
    """What the broker does; may be changed while it runs.

    properties: of the CONNACK, MQTT 5 encoded. connack: reason codes of the first CONNACKs, then
    success. silent_on, closes_on: payloads never acknowledged, or closed on. refuses: payload to
    reason code. reads: False for a client whose bytes are left in the socket. keepalive_s: closes
    on a client silent for so long, 0 for never. disconnects_on: payload to the code of the
    DISCONNECT that answers it (0: it just closes). hangs_up: closes on every PUBLISH.
    closes_on_release: closes over a PUBREL that it has completed, as rumqttd does.
    forgets_release: loses its first answer to each PUBREL, with the connection.
    """

    properties: bytes = b""
    connack: list[int] = field(default_factory=list)
    silent_on: set[bytes] = field(default_factory=set)
    closes_on: set[bytes] = field(default_factory=set)
    refuses: Mapping[bytes, int] = field(default_factory=dict)
    reads: bool = True
    keepalive_s: float = 0.0
    disconnects_on: Mapping[bytes, int] = field(default_factory=dict)
    hangs_up: bool = False
    closes_on_release: bool = False
    forgets_release: bool = False
    keeps_session: bool = False
    """Says `session present` from the second connection on."""


class FakeBroker(Closeable):
    """Listens on a free loopback port until the `with` block ends."""

    def __init__(self, behaviour: Behaviour | None = None, *, v5: bool = True) -> None:
        self.behaviour = behaviour or Behaviour()
        self.v5 = v5
        self.received: list[Received] = []
        self.connects: list[bytes] = []  # CONNECT packets without their header
        self.links = 0  # TCP connections
        self.most_in_flight = 0
        self.completed: set[int] = set()  # identifiers that had their PUBREL
        self.disconnects = 0
        self.changed = threading.Condition()
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._sockets: set[socket.socket] = set()
        threading.Thread(target=self._accept, daemon=True).start()

    def payloads(self) -> list[bytes]:
        """Payloads that came, repetitions included, without those of status topics."""
        with self.changed:
            return [m.payload for m in self.received if not m.topic.endswith("/status")]

    def wait_for(self, payload: bytes, timeout_s: float = 10.0, *, times: int = 1) -> Received:
        """Return the `times`-th arrival of a payload; raises TimeoutError."""
        found: list[Received] = []

        def there() -> bool:
            found[:] = [m for m in self.received if m.payload == payload]
            return len(found) >= times

        with self.changed:
            if not self.changed.wait_for(there, timeout_s):
                raise TimeoutError(f"{payload!r} did not come {times} times")
        return found[times - 1]

    def wait_for_links(self, count: int, timeout_s: float = 10.0) -> None:
        """Wait until the client has opened so many TCP connections."""
        with self.changed:
            if not self.changed.wait_for(lambda: self.links >= count, timeout_s):
                raise TimeoutError(f"{self.links} connections, not {count}")

    def cut(self) -> None:
        """Cut all connections."""
        for sock in list(self._sockets):
            sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Stop listening and cut all connections."""
        self._listener.close()
        for sock in list(self._sockets):
            sock.close()

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._sockets.add(sock)
            with self.changed:
                self.links += 1
                self.changed.notify_all()
            threading.Thread(target=self._serve, args=(sock,), daemon=True).start()

    def _serve(self, sock: socket.socket) -> None:
        try:
            _Link(self, sock).run()
        except OSError:
            pass
        finally:
            self._sockets.discard(sock)
            sock.close()


class _Link:
    """One connection."""

    def __init__(self, broker: FakeBroker, sock: socket.socket) -> None:
        self._broker, self._sock = broker, sock
        self._rest, self._answers = b"", b""
        self._open: set[int] = set()
        self._ended: set[int] = set()
        self._silent_s = 0.0

    def run(self) -> None:
        while True:
            done = self._packets()
            if done is False:
                return
            self._sock.settimeout(IDLE_S)
            try:
                if self._broker.connects and not self._broker.behaviour.reads:
                    raise TimeoutError
                data = self._sock.recv(65536)
            except TimeoutError:
                self._silent_s += IDLE_S
                limit_s = self._broker.behaviour.keepalive_s
                if limit_s and self._silent_s > limit_s * 1.5:
                    return
                self._answer()
                continue
            if not data:
                return
            self._silent_s = 0.0
            self._rest += data

    def _answer(self) -> None:
        answers, self._answers = self._answers, b""
        self._open -= self._ended
        self._ended.clear()
        if answers:
            self._sock.settimeout(None)
            self._sock.sendall(answers)

    def _packets(self) -> bool:
        while True:
            length = shift = 0
            at = 1
            while at < len(self._rest):
                byte = self._rest[at]
                length |= (byte & 127) << shift
                shift, at = shift + 7, at + 1
                if byte < 128:
                    break
            else:
                return True
            if len(self._rest) < at + length:
                return True
            head, body = self._rest[0], self._rest[at:at + length]
            self._rest = self._rest[at + length:]
            if not self._packet(head, body):
                return False

    def _packet(self, head: int, body: bytes) -> bool:
        broker, kind = self._broker, head >> 4
        with broker.changed:
            if kind == 1:
                return self._connect(body)
            if kind == PUBLISH:
                return self._publish(head, body)
            if kind == PUBREL:
                mid = struct.unpack(">H", body[:2])[0]
                if mid in broker.completed and broker.behaviour.closes_on_release:
                    return False
                broker.completed.add(mid)
                if broker.behaviour.forgets_release:
                    return len(broker.completed) % 5 > 0
                self._answers += packet(0x70, body[:2])
                self._ended.add(struct.unpack(">H", body[:2])[0])
            elif kind == 12:
                self._answers += b"\xd0\x00"
            elif kind == 14:
                broker.disconnects += 1
                return False
        return True

    def _connect(self, body: bytes) -> bool:
        broker, behaviour = self._broker, self._broker.behaviour
        code = behaviour.connack.pop(0) if behaviour.connack else 0
        broker.connects.append(body)
        present = behaviour.keeps_session and len(broker.connects) > 1 and not code
        properties = b"" if code else behaviour.properties
        more = bytes([len(properties)]) + properties if broker.v5 else b""
        self._sock.sendall(packet(0x20, bytes([present, code]) + more))
        broker.changed.notify_all()
        return code == 0

    def _publish(self, head: int, body: bytes) -> bool:
        broker, behaviour, qos = self._broker, self._broker.behaviour, head >> 1 & 3
        size = struct.unpack(">H", body[:2])[0]
        topic, rest, mid = body[2:2 + size].decode(), body[2 + size:], 0
        if qos:
            mid, rest = struct.unpack(">H", rest[:2])[0], rest[2:]
        payload = rest[1 + rest[0]:] if broker.v5 else rest
        broker.received.append(Received(len(broker.connects), topic, payload, qos, bool(head & 1),
                                        bool(head & 8), mid))
        broker.changed.notify_all()
        broker.completed.discard(mid)
        if payload in behaviour.closes_on or behaviour.hangs_up:
            return False
        if payload in behaviour.disconnects_on:
            self._sock.sendall(packet(0xE0, bytes([behaviour.disconnects_on[payload], 0])))
            return False
        if qos:
            self._open.add(mid)
            broker.most_in_flight = max(broker.most_in_flight, len(self._open))
            if payload in behaviour.silent_on:
                return True
            code = behaviour.refuses.get(payload, 0)
            if qos == 1 or code:
                self._ended.add(mid)
            self._answers += packet(0x40 if qos == 1 else 0x50,
                                    struct.pack(">H", mid) + (bytes([code]) if code else b""))
        return True
