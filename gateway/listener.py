"""Sockets towards the devices: one pass for each wake-up, limits, back-pressure."""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
import time
from collections import Counter
from typing import Protocol, cast

from gateway import wire
from gateway.acl import Permit
from gateway.config import ListenerConfig
from gateway.errors import ListenError, ProtocolError
from gateway.inbound import LEFT, Inbound
from gateway.local import Session
from gateway.tcp import Moved, moved
from gateway.tls import TlsServer, common_name, load, server_context

log = logging.getLogger("tidegate.listener")

SLOW_READER_BYTES = 4_194_304  # a subscriber this far behind is cut
CONGESTED_BYTES = 262_144  # so much to write is enough; what can wait then waits
SWEEP_S = 0.5
TCP_ESTABLISHED = 1
STUCK_S = 1.0  # held back for so long, a connection is looked at: its peer may have gone
_CONNACK_CODES = {"protocol level": 1, "client identifier": 2, "too many logins": 3,
                  "bad credentials": 4, "not authorized": 5}


def probe(sock: socket.socket | None, dead_s: int) -> None:
    """Have the kernel ask a silent peer, and give it up after dead_s [s], 0 for never.

    Without it a board that lost its power stays "online" for 1.5 of its keepalives.
    """
    if sock is None or dead_s <= 0:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", dead_s // 3), ("TCP_KEEPINTVL", max(1, dead_s // 5)),
                        ("TCP_KEEPCNT", 3), ("TCP_USER_TIMEOUT", (dead_s - 1) * 1000)):
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def hung_up(sock: socket.socket | None) -> bool:
    """Whether the peer has closed, reset or died; the kernel tells without reading."""
    if sock is None or not hasattr(socket, "TCP_INFO"):
        return False
    try:  # the first byte of tcp_info is the state, see tcp(7)
        return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] != TCP_ESTABLISHED
    except OSError:
        return False


class House(Protocol):
    """What the listener hands on to; see clients.py and door.py."""

    def received(self, conn: Connection, packets: list[wire.Packet], now_s: float) -> None: ...
    def closed(self, conn: Connection, clean: bool) -> None: ...
    def writable(self, conn: Connection) -> None: ...


class Connection(asyncio.Protocol):
    """One socket. `session` is None until its CONNECT was accepted."""

    def __init__(self, listener: Listener) -> None:
        self._listener = listener
        self.session: Session | None = None
        self.will: wire.Publish | None = None
        self.permit: Permit | None = None  # where there is a door, see door.py
        self.certificate: str | None = None  # the name in the client's certificate
        self.waiting = False  # at the door
        self.peer = "?"
        self.held: list[wire.Publish] = []  # came, but the outbox had no room for them
        self.unacked_bytes = 0
        self.acked_s = 0.0
        self.since_s = self.heard_s = time.monotonic()
        self.limited = listener.config.max_messages_per_s > 0
        self.allowed = 0.0  # messages it may send now, where the rate is limited
        self._allowed_s = time.monotonic()
        self._transport: asyncio.Transport | None = None
        self.paused = self._deaf = self.congested = False
        self._paused_s = 0.0
        self._congested_bytes = 0  # written since it was last looked how far it is behind
        self._moved: Moved | None = None  # at the last look, since when nothing came
        config = listener.config
        self.core = Inbound(time.monotonic(), config.connect_timeout_s, config.max_packet_bytes)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=CONGESTED_BYTES)
        peer = transport.get_extra_info("peername")
        self.peer = f"{peer[0]}:{peer[1]}" if peer else "?"
        self.certificate = common_name(transport)
        probe(transport.get_extra_info("socket"), self._listener.config.dead_peer_s)
        if not self._listener.admit(self):
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        now_s = self.heard_s = time.monotonic()
        self._moved = None
        try:
            packets = self.core.feed(bytes(data), now_s)
            if packets and not self._deaf:
                self._listener.house.received(self, packets, now_s)
        except ProtocolError as error:
            self.fail(error)
            return
        if not self.waiting and (self.core.out or self.core.state == LEFT):
            self.settle()

    def settle(self) -> None:
        """Answer what the core has answered; close where the client has said goodbye."""
        if self.core.out:
            self.write(bytes(self.core.out))
            self.core.out.clear()
        if self.core.state == LEFT:
            self.close()

    def pause_writing(self) -> None:
        self.congested = True

    def resume_writing(self) -> None:
        self.congested = False
        self._congested_bytes = 0
        self._listener.house.writable(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        if isinstance(exc, TimeoutError):
            self._listener.refused["dead link"] += 1
            log.warning("connection lost peer=%s client=%s reason='nobody answers'", self.peer,
                        self.session.client_id if self.session else "-")
        self._listener.gone(self)

    def write(self, data: bytes) -> None:
        """Send bytes; nothing happens on a connection that is gone."""
        if self._transport is not None:
            self._transport.write(data)
            if self.congested:
                self._look_behind(len(data))

    def _look_behind(self, written: int) -> None:
        """Cut a slow reader. It is looked up now and then: uvloop and TLS add the buffers up."""
        self._congested_bytes += written
        if self._congested_bytes < CONGESTED_BYTES or self._transport is None:
            return
        self._congested_bytes = 0
        if self._transport.get_write_buffer_size() > SLOW_READER_BYTES:
            self.fail(ProtocolError("slow reader", f"more than {SLOW_READER_BYTES} bytes behind"))

    def close(self) -> None:
        """Close after what was written is out."""
        if self._transport is not None:
            self._transport.close()

    def fail(self, error: ProtocolError) -> None:
        """Close for what the peer did; said in the log with a reason, and counted."""
        self._listener.refused[error.reason] += 1
        client = self.session.client_id if self.session else "-"
        code = None if self.session is not None else _CONNACK_CODES.get(error.reason)
        if code is not None and self._transport is not None:  # MQTT-3.1.2-2, MQTT-3.1.3-8
            self._transport.write(wire.encode_connack(False, code))
            log.warning("connection refused peer=%s reason=%r", self.peer, str(error))
            self._transport.close()
            return
        log.warning("connection closed peer=%s client=%s reason=%r", self.peer, client, str(error))
        if self._transport is not None:
            self._transport.abort()

    def hold(self, wait: bool) -> None:
        """Stop reading (the device's TCP window then holds it back), or go on."""
        if self._transport is None or wait == self.paused:
            return
        self.paused = wait
        if wait:
            self._paused_s = time.monotonic()
            self._transport.pause_reading()
        else:
            self.core.patience(time.monotonic())
            self._transport.resume_reading()

    def over_rate(self, messages: int, now_s: float) -> bool:
        """Count messages against the connection's rate; True where it should be held back."""
        rate = self._listener.config.max_messages_per_s
        self.allowed = min(rate, self.allowed + (now_s - self._allowed_s) * rate) - messages
        self._allowed_s = now_s
        return self.allowed < 0

    def go_on(self, now_s: float) -> None:
        """Read again, where nothing speaks against it any more."""
        if self.paused and not self.held and not self.waiting and not self._listener.stopping \
                and self.unacked_bytes <= self._listener.config.max_unacked_bytes \
                and not (self.limited and self.over_rate(0, now_s)):
            self.hold(False)

    def _socket(self) -> socket.socket | None:
        return self._transport.get_extra_info("socket") if self._transport else None

    def _stuck(self, now_s: float) -> bool:
        """Whether it waits for the outbox or the disk, which may last; a rate and the door do not.
        """
        return self.paused and now_s - self._paused_s > STUCK_S and not self._listener.stopping \
            and (bool(self.held) or self.unacked_bytes > self._listener.config.max_unacked_bytes)

    def _let_go(self) -> None:
        """Read to the end, so that the end is seen: else the dead fill the house.

        What it sent and we hold is dropped. None of it was acknowledged, so the client sends it
        again (at QoS 0 nothing was promised). Only whether it said goodbye still counts.
        """
        self._deaf = True
        self.hold(False)

    def _look(self, now_s: float) -> None:
        """Who sends a long TLS record, or still takes what waits for it, is there, if slow. What
        its kernel takes at once says nothing of its program."""
        before, self._moved = self._moved, moved(self._socket())
        if before is not None and self._moved is not None and (
                self._moved.received > before.received
                or (before.queued and self._moved.taken > before.taken)):
            self.core.patience(now_s)

    def sweep(self, now_s: float) -> None:
        """Look after deadlines, a few times a second."""
        if self.paused:
            self.core.patience(now_s)
            self.go_on(now_s)
            if self._stuck(now_s) and hung_up(self._socket()):
                self._let_go()
            return
        if self._moved is not None or self.core.silent(now_s):
            self._look(now_s)
        why = self.core.overdue(now_s)
        if why:
            self.fail(ProtocolError(why))


class Listener:
    """The server socket and its connections."""

    def __init__(self, config: ListenerConfig, house: House) -> None:
        self.config, self.house = config, house
        self.connections: set[Connection] = set()
        self.refused: Counter[str] = Counter()
        self.stopping = False
        self.tls_port = 0
        self._server: asyncio.Server | None = None
        self._tls: TlsServer | None = None
        self._context: ssl.SSLContext | None = None

    async def open(self) -> int:
        """Listen; return the port, 0 where there is only TLS."""
        bound, config = 0, self.config
        address = config.listen
        try:
            if address != "off":
                host, port = config.address(address)
                self._server = await asyncio.get_running_loop().create_server(
                    lambda: Connection(self), host, port, backlog=1024, reuse_address=True)
                bound = int(self._server.sockets[0].getsockname()[1])
                log.info("listening address=%s:%d", host, bound)
            address = config.tls_listen
            if address != "off":
                self._context = server_context(*config.tls_files())
                self._tls = TlsServer(self._context, config.connect_timeout_s,
                                      lambda: Connection(self), self._room, self._tls_failed)
                host, port = config.address(address)
                self.tls_port = await self._tls.open(host, port)
                log.info("listening with TLS address=%s:%d", host, self.tls_port)
        except ListenError:
            raise
        except OSError as error:
            raise ListenError(f"cannot listen on {address}: {error.strerror or error}") from error
        return bound

    def _tls_failed(self, peer: str, reason: str) -> None:
        self.refused[f"TLS: {reason[:80]}"] += 1
        log.warning("TLS handshake failed peer=%s reason=%r", peer, reason)

    def _room(self, coming: int = 0) -> bool:
        """Whether one more may come in."""
        if len(self.connections) + coming < self.config.max_connections:
            return True
        self.refused["too many connections"] += 1
        return False

    def reload_tls(self) -> None:
        """Read certificate and key again, for handshakes to come. Raises ListenError."""
        if self._context is not None:
            load(self._context, *self.config.tls_files())

    def admit(self, conn: Connection) -> bool:
        """Take a new connection, unless there are too many."""
        if not self._room():
            log.warning("connection refused peer=%s reason='too many connections' limit=%d",
                        conn.peer, self.config.max_connections)
            return False
        self.connections.add(conn)
        return True

    def gone(self, conn: Connection) -> None:
        """A connection has ended."""
        if conn in self.connections:
            self.connections.remove(conn)
            if self.stopping:
                return  # its will stays on disk, for a client that does not come back
            self.house.closed(conn, clean=conn.core.state == LEFT)

    async def run(self) -> None:
        """Sweep for ever."""
        while True:
            await asyncio.sleep(SWEEP_S)
            now_s = time.monotonic()
            for conn in list(self.connections):
                conn.sweep(now_s)

    def stop_listening(self) -> None:
        """Accept nobody new; stop reading from those who are there."""
        self.stopping = True
        if self._server is not None:
            self._server.close()
        if self._tls is not None:
            self._tls.close()
        for conn in list(self.connections):
            conn.hold(True)

    def close(self) -> None:
        """Close every connection without firing a will: it is us who leave."""
        for conn in list(self.connections):
            conn.close()
