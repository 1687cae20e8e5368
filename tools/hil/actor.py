"""A client that plays a recorded one: its identifier, will, QoS and clean session, on asyncio.

Rules:
- What it is told to do (connect, publish, disconnect, cut) it does in that order; a publish
  waits for its connection and for a place in the window.
- While it should be connected it connects again by itself, and sends again, in order and before
  anything new, what was not acknowledged (section 4.4 of MQTT 3.1.1). With a clean session, or
  where the server has forgotten the session, it sends that as new: at QoS 2 a receiver may then
  rightly get it twice, and the item says so (`inexact`).
- A peer that says nothing for ANSWER_S while something is owed by it is given up.
"""

from __future__ import annotations

import asyncio
import struct
import time
from collections import deque
from collections.abc import Callable
from typing import cast

from tools.crash_mqtt import (
    CONNACK,
    DISCONNECT,
    PUBACK,
    PUBCOMP,
    PUBREC,
    PUBREL,
    Decoder,
    Packet,
    Publish,
    ack,
    connect,
    encode,
    publish,
)
from tools.hil.recording import Event, Will
from tools.ports import HOST

WINDOW = 100
RETRY_S = 0.05
ANSWER_S = 5.0
PING = encode(12, 0, b"")
MOST_BUFFERED = 1 << 20


class Item:
    """One message to be published. Times are monotonic [ns], 0 for never."""

    __slots__ = ("acked_ns", "client", "due_ns", "inexact", "payload", "qos", "released", "retain",
                 "sends", "sent_ns", "topic")

    def __init__(self, client: str, topic: str, payload: bytes, qos: int, retain: bool,
                 due_ns: int = 0) -> None:
        self.client, self.topic, self.payload = client, topic, payload
        self.qos, self.retain, self.due_ns = qos, retain, due_ns
        self.sent_ns = self.acked_ns = self.sends = 0
        self.released = self.inexact = False

    @property
    def allowed(self) -> int:
        """How often a receiver may rightly get it."""
        return max(1, self.sends) if self.qos < 2 or self.inexact else 1


class _Line(asyncio.Protocol):
    """One connection of an actor."""

    def __init__(self, actor: Actor, hello: bytes) -> None:
        self._actor, self._hello, self._decoder = actor, hello, Decoder()
        self.transport: asyncio.Transport | None = None
        self.heard_s = asyncio.get_running_loop().time()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if self._actor.made(self):
            self.transport.write(self._hello)
        else:
            self.transport.abort()

    def data_received(self, data: bytes) -> None:
        self.heard_s = asyncio.get_running_loop().time()
        try:
            packets = self._decoder.feed(data)
        except ValueError:
            self.abort()
            return
        for packet in packets:
            self._actor.take(self, packet)

    def connection_lost(self, exc: Exception | None) -> None:
        self.transport = None
        self._actor.lost(self)

    def abort(self) -> None:
        """End at once, saying nothing."""
        if self.transport is not None:
            self.transport.abort()


class Actor:
    """Plays one client against a loopback port; see the rules above."""

    def __init__(self, port: int, client_id: str, *, window: int = WINDOW,
                 clean: bool = True, host: str = HOST) -> None:
        self.port, self.host, self.client_id, self.window = port, host, client_id, window
        self.connected = False
        self.connects = self.lost_connections = self.acknowledged = self.published = 0
        self.vanished = 0  # how often it ended, connected and with a will, without DISCONNECT
        self.on_connected: Callable[[], None] = lambda: None
        self.queue: deque[Item | Event] = deque()
        self.flying: dict[int, Item] = {}
        self._hello = Event(t=0, e="connect", c=client_id, clean=clean)
        self._wanted = False
        self._line: _Line | None = None
        self._dialling: asyncio.Task[None] | None = None
        self._mid = 0
        self._loop = asyncio.get_running_loop()

    # what it is told

    def do(self, what: Item | Event) -> None:
        """Do this when all before it is done."""
        self.queue.append(what)
        self.pump()

    def tick(self) -> None:
        """Ping, and give a silent peer up; to be called about every second."""
        line, now_s = self._line, self._loop.time()
        if line is not None and self.connected:
            silent_s = now_s - line.heard_s
            if silent_s > ANSWER_S and (self.flying or self._hello.keepalive_s):
                line.abort()
                return
            if silent_s > 1.0 and line.transport is not None:
                line.transport.write(PING)
        self.pump()

    @property
    def will(self) -> Will | None:
        """The will of its connection."""
        return self._hello.will

    @property
    def idle(self) -> bool:
        """Whether nothing is left to do or to be acknowledged."""
        return not self.queue and not self.flying

    async def close(self) -> None:
        """Say DISCONNECT and be gone."""
        self._finish(goodbye=True)
        if self._dialling is not None:
            await asyncio.gather(self._dialling, return_exceptions=True)

    def vanish(self) -> None:
        """End at once without a word, and do not come back."""
        self._finish(goodbye=False)

    # how it does it

    def pump(self) -> None:
        """Do what can be done now."""
        while self.queue:
            head = self.queue[0]
            if isinstance(head, Event):
                if head.e == "disconnect" and self.flying:
                    return
                self.queue.popleft()
                self._control(head)
                continue
            if not self._wanted:
                self._begin(self._hello)
            line = self._line
            if not self.connected or line is None or line.transport is None:
                return
            if head.qos and len(self.flying) >= self.window:
                return
            if line.transport.get_write_buffer_size() > MOST_BUFFERED:
                return
            self.queue.popleft()
            self._publish(head, line.transport)

    def _control(self, event: Event) -> None:
        if event.e == "connect":
            if self._wanted:
                self._finish(goodbye=False)
            self._begin(event)
        else:
            self._finish(goodbye=event.e == "disconnect")

    def _publish(self, item: Item, transport: asyncio.Transport) -> None:
        mid = 0
        if item.qos:
            mid = self._free_mid()
            self.flying[mid] = item
        self.published += 1
        self._write(item, mid, transport, dup=False)

    def _write(self, item: Item, mid: int, transport: asyncio.Transport, *, dup: bool) -> None:
        item.sent_ns = item.sent_ns or time.monotonic_ns()
        item.sends += 1
        transport.write(publish(Publish(item.topic, item.payload, item.qos, item.retain, dup,
                                        mid)))

    def _free_mid(self) -> int:
        while True:
            self._mid = self._mid % 65535 + 1
            if self._mid not in self.flying:
                return self._mid

    def _begin(self, hello: Event) -> None:
        self._hello, self._wanted = hello, True
        self._dial()

    def _finish(self, *, goodbye: bool) -> None:
        self.vanished += self.connected and not goodbye and self._hello.will is not None
        self._wanted = self.connected = False
        line, self._line = self._line, None
        if self._dialling is not None:
            self._dialling.cancel()
        if line is None or line.transport is None:
            return
        if goodbye:
            line.transport.write(encode(DISCONNECT, 0, b""))
            line.transport.close()
        else:
            line.abort()

    def _dial(self) -> None:
        if self._wanted:
            self._dialling = self._loop.create_task(self._connect())

    async def _connect(self) -> None:
        hello, will = self._hello, None
        if hello.will is not None:
            will = Publish(hello.will.topic, hello.will.payload, hello.will.qos,
                           hello.will.retain, False, 0)
        packet = connect(self.client_id, clean=hello.clean, keepalive_s=hello.keepalive_s,
                         will=will)
        while self._wanted:
            try:
                async with asyncio.timeout(ANSWER_S):
                    await self._loop.create_connection(
                        lambda: _Line(self, packet), self.host, self.port)
                return
            except (OSError, TimeoutError):
                await asyncio.sleep(RETRY_S)

    def made(self, line: _Line) -> bool:
        """Take a new connection; tells whether it is wanted."""
        if self._wanted and self._line is None:
            self._line = line
        return self._line is line

    def lost(self, line: _Line) -> None:
        """Note the end of a connection."""
        if line is not self._line:
            return
        self._line, self.connected = None, False
        self.lost_connections += 1
        if self._wanted:
            self._loop.call_later(RETRY_S, self._dial)

    def take(self, line: _Line, packet: Packet) -> None:
        """Take a packet that came."""
        if line is not self._line or line.transport is None:
            return
        if packet.kind == CONNACK:
            if packet.body[1]:
                line.abort()
            else:
                self._resume(bool(packet.body[0] & 1), line.transport)
        elif packet.kind in (PUBACK, PUBREC, PUBCOMP):
            self._acknowledged(packet, line.transport)

    def _resume(self, session_present: bool, transport: asyncio.Transport) -> None:
        self.connected = True
        self.connects += 1
        again, self.flying = self.flying, {}
        for mid, item in again.items():
            if item.released and session_present:
                self.flying[mid] = item
                transport.write(ack(PUBREL, mid))
            elif item.released:
                self._done(item)  # its PUBREC came: it belongs to the server, session or not
            else:
                self.flying[mid] = item
                item.inexact |= not session_present
                self._write(item, mid, transport, dup=session_present)
        self.on_connected()
        self.pump()

    def _acknowledged(self, packet: Packet, transport: asyncio.Transport) -> None:
        item = self.flying.get(packet.mid)
        if packet.kind == PUBREC:
            if item is not None:
                item.acked_ns = item.acked_ns or time.monotonic_ns()
                item.released = True
            transport.write(encode(PUBREL, 2, struct.pack(">H", packet.mid)))
            return
        if item is not None and (packet.kind == PUBCOMP) == (item.qos == 2):
            del self.flying[packet.mid]
            self._done(item)
        self.pump()

    def _done(self, item: Item) -> None:
        item.acked_ns = item.acked_ns or time.monotonic_ns()
        self.acknowledged += 1
