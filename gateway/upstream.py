"""The link to a broker: keeps a session up, finds a peer that lies, and moves packets in batches.

gateway/paho_session.py owns the session; this file owns the event loop's side of its socket.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

from gateway import wire
from gateway.backoff import longest_wait_s
from gateway.config import UpstreamConfig
from gateway.dial import dial
from gateway.duel import Duel
from gateway.errors import ProtocolError
from gateway.flight import Limits
from gateway.liveness import Liveness
from gateway.outage import Outage
from gateway.paho_session import READ_BYTES, Accepted, Ended, Granted, Note, PahoSession

log = logging.getLogger("tidegate.upstream")

WRITE_LIMIT_BYTES = 262_144
DISCONNECT = b"\xe0\x00"
PINGREQ = b"\xc0\x00"
_BY_BROKER = (ConnectionResetError, BrokenPipeError)
QUICK_FALLS = 8  # a broker that hangs up so often at once is let alone


def _reason(error: Exception) -> str:
    """Say how the connection ended, and not who ended it: broker or network, nobody knows here."""
    if isinstance(error, ConnectionResetError):
        return "connection reset"
    if isinstance(error, BrokenPipeError):
        return "connection closed"
    return str(error) or type(error).__name__


class Listener(Protocol):
    """What the link tells.

    by_broker: the other end closed, or something between that spoke in its name; see
    gateway/caution.py for what that may mean. code: of its DISCONNECT, 0 for none.
    """

    def upstream_connected(self, session_present: bool, limits: Limits) -> None: ...
    def upstream_acks(self, acks: list[wire.Ack]) -> None: ...
    def upstream_writable(self) -> None: ...
    def upstream_lost(self, by_broker: bool, code: int = 0) -> None: ...
    def upstream_publishes(self, publishes: list[wire.Publish]) -> None: ...


class Upstream:
    """Keeps one link up, with full jitter between tries, until stopped.

    forgotten: where given, the broker's old session of ours is thrown away first, and this awaited
    before the first one that stays. subscribed: called with the codes of a SUBACK.
    """

    def __init__(self, config: UpstreamConfig, listener: Listener, will_topic: str | None,
                 name: str = "upstream", *,
                 forgotten: Callable[[], Awaitable[None]] | None = None,
                 subscribed: Callable[[list[int]], None] | None = None) -> None:
        self.config, self._listener = config, listener
        self.connected = False
        self.state = "starting"  # one word or a short reason, for people
        self.connects = 0
        self._buffer = b""
        self._fd = -1
        self.duel = Duel(config.client_id)
        self._outage = Outage()
        self._in_vain = 0  # tries since the broker acknowledged anything, or the link was up
        self._alive = Liveness(0.0, 0.0)  # of a connection
        self._lost: asyncio.Event = asyncio.Event()
        self._rng = random.Random()
        self._reason = ""
        self._will_topic = will_topic
        self._name = name  # for the log
        self._paused = False
        self._session = PahoSession(config, will_topic, forget=forgotten is not None)
        self._forgotten, self._subscribed = forgotten, subscribed
        self._breaking: asyncio.Handle | None = None  # a write failed; see `_broken`

    # --- what the bridge calls

    def write(self, parts: list[bytes]) -> None:
        """Send packets; `writable` says whether more are welcome."""
        self._session.out += b"".join(parts)
        self._alive.wrote(time.monotonic(), self._session.handed_bytes + len(self._session.out))
        self._flush()

    def left_s(self, written_s: float) -> float | None:
        """When all that was written by then had reached the other end's kernel [s]; None while it
        is under way. Times are those of this connection."""
        self._look(time.monotonic())
        return self._alive.sending.left_s(written_s)

    def writable(self) -> bool:
        """Whether another batch should be offered."""
        return self.connected and self._breaking is None \
            and len(self._session.out) < WRITE_LIMIT_BYTES

    def pause(self, wait: bool) -> None:
        """Stop reading, or go on."""
        if wait == self._paused:
            return
        self._paused = wait
        if self._fd >= 0:
            loop = asyncio.get_running_loop()
            if wait:
                loop.remove_reader(self._fd)
            else:
                loop.add_reader(self._fd, self._readable)

    def drop(self, reason: str) -> None:
        """Give the link up; it is tried again after a backoff."""
        if self.connected:  # else it is one more try in vain, whose reason is told as theirs are
            log.warning("%s dropped reason=%r", self._name, reason)
        self._close(reason)

    async def run(self) -> None:
        """Connect, watch, connect again; for ever."""
        while True:
            self.state = "connecting"
            self._lost.clear()
            self._buffer, self._reason = b"", ""
            try:
                self._session.begin(await dial(self._session.dial, self._name))
                self._attach()
                await self._watch()
            except (OSError, ValueError) as error:
                self._close(_reason(error))
            if self._session.forgotten and self._forgotten is not None:
                await self._forgotten()
                continue
            now_s = time.monotonic()
            level, text = self._outage.failed(self._reason, now_s)
            self._in_vain += 1
            wait_s = self._rng.uniform(
                0, longest_wait_s(self._in_vain, self._outage.lasts_s(now_s)))
            log.log(level, "%s %s next_try_s=%.1f", self._name, text, wait_s)
            self.state = f"away: {self._reason}"
            await asyncio.sleep(wait_s)

    def close(self) -> None:
        """Say what the will would say, and DISCONNECT, which takes the will away."""
        if self.connected:
            said = []
            if self._will_topic is not None:
                said = [wire.encode_publish(
                    wire.encode_text(self._will_topic), b"offline", 0, self._session.will_retain,
                    False, 0, v5=self._session.v5)]
            self.write([*said, DISCONNECT])
        self._close("stopped")

    # --- the link

    def _attach(self) -> None:
        self._fd = self._session.descriptor()
        self._alive = Liveness(time.monotonic(), self.config.keepalive_s / 2)
        if not self._paused:
            asyncio.get_running_loop().add_reader(self._fd, self._readable)
        self.write([])  # CONNECT

    async def _watch(self) -> None:
        """Return when the link is lost. A silent peer is asked, then given up."""
        while not self._lost.is_set():
            try:
                # not wait_for, which in Python 3.11 can swallow a cancellation
                async with asyncio.timeout(self._alive.look_s()):
                    await self._lost.wait()
            except TimeoutError:
                pass
            now_s = time.monotonic()
            if self._fd >= 0:
                self._check(now_s)
            if self.connected:
                self.duel.stands(now_s)
            if told := self._outage.stands(now_s):
                log.info("%s %s", self._name, told)

    def _check(self, now_s: float) -> None:
        self._look(now_s)
        if self._paused:
            self._alive.heard(now_s)  # its silence is our doing
        if self._alive.dead(now_s):
            self.drop(f"nothing heard for {now_s - self._alive.heard_s:.0f} s")
        elif self.connected and self._alive.due(now_s):
            self.write([PINGREQ])
            self._alive.asked(now_s)

    def _look(self, now_s: float) -> None:
        """Ask the kernel what moved."""
        if self._fd >= 0:
            self._alive.looked(now_s, self._session.handed_bytes, self._session.moved(),
                               layered=self.config.tls or self.config.websocket)

    def _readable(self) -> None:
        received, ended = self._receive()
        if received:
            self._alive.heard(time.monotonic())
            self._take(self._buffer + received)
        if ended is not None and self._fd >= 0:
            self._close(_reason(ended), by_broker=isinstance(ended, _BY_BROKER))

    def _receive(self) -> tuple[bytes, OSError | None]:
        """What came, and how the connection ended behind it, if it has."""
        received: list[bytes] = []
        ended: OSError | None = None
        try:
            while part := self._session.receive():
                received.append(part)
                if len(part) < READ_BYTES and not self.config.tls and not self.config.websocket:
                    break
            else:
                ended = BrokenPipeError()
        except BlockingIOError:
            pass
        except OSError as error:
            ended = error
        return b"".join(received), ended

    def _take(self, data: bytes) -> None:
        acks = wire.decode_acks(data)
        if acks is None:
            self._take_mixed(data)
            return
        self._buffer, self._in_vain = b"", 0
        if self.connected:
            self._listener.upstream_acks(acks)
        if self.connected:
            self._listener.upstream_writable()

    def _take_mixed(self, data: bytes) -> None:
        try:
            packets, used = wire.decode(data, v5=self.config.protocol == "5", client=True)
        except ProtocolError as error:
            self.drop(f"the broker sent a bad packet: {error}")
            return
        self._buffer = data[used:]
        acks: list[wire.Ack] = []
        publishes: list[wire.Publish] = []
        for packet in packets:
            if isinstance(packet, wire.Ack):
                acks.append(packet)
            elif isinstance(packet, wire.Raw) and packet.kind != wire.PINGRESP:
                if acks and self.connected:  # before a DISCONNECT
                    self._listener.upstream_acks(acks)
                acks = []
                self._hear(self._session.take(packet.data))
                if self._fd < 0:  # by CONNACK or DISCONNECT
                    return
            elif isinstance(packet, wire.Publish):
                publishes.append(packet)
        if publishes:
            self._listener.upstream_publishes(publishes)
        if acks and self.connected:
            self._in_vain = 0
            self._listener.upstream_acks(acks)
        if self.connected:
            self._listener.upstream_writable()

    def _hear(self, note: Note | None) -> None:
        """Act on what a control packet meant; paho has returned by now."""
        if isinstance(note, Accepted):
            self._opened(note)
        elif isinstance(note, Granted):
            if self._subscribed is not None:
                self._subscribed(note.codes)
        elif isinstance(note, Ended):
            if self._session.forgotten:
                self.write([DISCONNECT])
            self._close(note.reason, by_broker=True, code=note.code)

    def _flush(self) -> None:
        """Write what the socket takes. A failure is acted on later: never inside a caller that
        still has something to do with this link."""
        if self._fd < 0 or self._breaking is not None:
            return
        loop = asyncio.get_running_loop()
        try:
            self._session.transmit()
        except BlockingIOError:
            pass
        except OSError as error:
            self._breaking = loop.call_soon(self._broken, error)
            loop.remove_writer(self._fd)
            return
        now_s = time.monotonic()
        if self._alive.sending.waits(now_s):
            self._look(now_s)
        if self._session.out:
            loop.add_writer(self._fd, self._drained)
        else:
            loop.remove_writer(self._fd)

    def _broken(self, error: OSError) -> None:
        """A write failed. First take what the broker said before it hung up, be it a refusal."""
        self._breaking = None
        by_broker = isinstance(error, _BY_BROKER)
        if not self._paused:
            received, ended = self._receive()
            if received:
                self._take(self._buffer + received)
            if ended is not None and not isinstance(ended, _BY_BROKER):
                error = ended  # in TLS an alert
        if self._fd >= 0:
            self._close(_reason(error), by_broker=by_broker)

    def _drained(self) -> None:
        self._flush()
        if self.writable():
            self._listener.upstream_writable()

    def _close(self, reason: str, *, by_broker: bool = False, code: int = 0) -> None:
        self._look(time.monotonic())  # for the last time
        self._detach()
        self._reason = reason
        was, self.connected = self.connected, False
        self._session.shut()
        if was:
            if told := self.duel.fell(code, time.monotonic(), by_broker=by_broker):
                log.error("%s %s", self._name, told)
            self._listener.upstream_lost(by_broker, code)
        self._lost.set()

    def _detach(self) -> None:
        """Stop watching the socket; before anybody closes it, or its number is another's."""
        if self._fd >= 0:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._fd)
            loop.remove_writer(self._fd)
            self._fd = -1
        if self._breaking is not None:
            self._breaking.cancel()
            self._breaking = None

    def _opened(self, accepted: Accepted) -> None:
        """The broker accepted us."""
        session_present, limits, keepalive_s = accepted
        self.connected, self.state = True, "connected"
        self.connects += 1
        if keepalive_s:
            self._alive.keepalive(keepalive_s)
        if self._outage.fell < QUICK_FALLS:
            self._in_vain = 0
        self.duel.opened(time.monotonic())
        level, summary = self._outage.opened(time.monotonic())
        log.log(level, "%s connected host=%s port=%d session_present=%s window=%d max_qos=%d%s",
                self._name, self.config.host, self.config.port, session_present, limits.window,
                limits.max_qos, summary)
        self._listener.upstream_connected(session_present, limits)
