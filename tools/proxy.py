"""A fault proxy: a TCP relay whose link can be made to lie.

Rules:
- Each direction of each connection has its own pump; the *fault* of a direction is shared by all
  connections and may be changed at any time, also while bytes are under way.
- A **blackhole** is a cable that was pulled: nothing passes and nobody is told, neither of bytes
  nor of an end. Bytes sent into it wait, as TCP would send them again, and travel on when it ends.
- A **cut** ends both sides, by RST as a crash does or by FIN as an orderly end does. `cut_after`
  ends a connection in the middle of a packet.
- Latency never reorders: TCP does not.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal

from tools.ports import HOST

CHUNK = 65536
Direction = Literal["up", "down"]
DIRECTIONS: tuple[Direction, Direction] = ("up", "down")
"""up: from who connected to who was connected to (client to broker); down: back."""


@dataclass(slots=True)
class Fault:
    """What one direction of the link does to the bytes in it.

    latency_s, jitter_s: each chunk waits latency_s plus up to jitter_s. bytes_per_s: None for no
    limit. corrupt: the probability of each byte to have one bit flipped. cut_after: bytes until
    every connection is reset, None for never.
    """

    blackhole: bool = False
    latency_s: float = 0.0
    jitter_s: float = 0.0
    bytes_per_s: float | None = None
    corrupt: float = 0.0
    cut_after: int | None = None


@dataclass(slots=True)
class Counts:
    """What has happened so far."""

    connections: int = 0
    refused: int = 0
    cuts: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    corrupted: int = 0


def corrupt_bytes(data: bytes, probability: float, rng: random.Random) -> tuple[bytes, int]:
    """Return data with one bit flipped in each byte that was drawn, and how many there were."""
    if probability <= 0.0:
        return data, 0
    changed = bytearray(data)
    hits = 0
    for index in range(len(changed)):
        if rng.random() < probability:
            changed[index] ^= 1 << rng.randrange(8)
            hits += 1
    return bytes(changed), hits


class Link:
    """One connection through the proxy: two sockets and two pumps."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._sockets = (client, server)
        self._tasks: list[asyncio.Task[None]] = []

    async def run(self) -> None:
        """Relay until both directions have ended or the link is cut."""
        client, server = self._sockets
        self._tasks = [
            asyncio.create_task(self._pump("up", client, server)),
            asyncio.create_task(self._pump("down", server, client)),
        ]
        try:
            await asyncio.gather(*self._tasks)
        except OSError:  # one side was reset: the other learns of it once the cable is back
            for direction in DIRECTIONS:
                await self._proxy.until_open(direction)
            self.cut(reset=True)
        except asyncio.CancelledError:  # cut, or the proxy stops
            pass
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            for sock in self._sockets:
                sock.close()
            self._proxy.on_end(self)

    def cut(self, *, reset: bool) -> None:
        """End both sides at once: by RST, or by FIN."""
        for sock in self._sockets:
            if sock.fileno() < 0:
                continue
            if reset:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            else:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        for task in self._tasks:
            task.cancel()

    async def _pump(
        self, direction: Direction, source: socket.socket, sink: socket.socket
    ) -> None:
        """Relay one direction; chunks queue up for their latency, in order."""
        queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(maxsize=64)
        writer = asyncio.create_task(self._deliver(direction, queue, sink))
        try:
            await self._collect(direction, queue, source)
            await writer
        finally:
            writer.cancel()

    async def _collect(
        self,
        direction: Direction,
        queue: asyncio.Queue[tuple[float, bytes]],
        source: socket.socket,
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await self._proxy.until_open(direction)
            data = await loop.sock_recv(source, CHUNK)
            fault = self._proxy.fault(direction)
            delay_s = fault.latency_s + self._proxy.rng.random() * fault.jitter_s
            await queue.put((loop.time() + delay_s, data))
            if not data:
                return

    async def _deliver(
        self,
        direction: Direction,
        queue: asyncio.Queue[tuple[float, bytes]],
        sink: socket.socket,
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due, data = await queue.get()
            if due > loop.time():
                await asyncio.sleep(due - loop.time())
            await self._proxy.until_open(direction)
            if not data:
                sink.shutdown(socket.SHUT_WR)
                return
            data = self._proxy.damage(direction, data)
            rest = self._proxy.allowed(direction, data)
            await self._send(direction, data[:rest], sink)
            if rest < len(data):
                self._proxy.cut(reset=True)
                return

    async def _send(self, direction: Direction, data: bytes, sink: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self._proxy.count(direction, len(data))  # before: who receives them may look at once
        rate = self._proxy.fault(direction).bytes_per_s
        if rate is None:
            self._proxy.tap(self, direction, data)
            await loop.sock_sendall(sink, data)
        else:
            step = max(1, int(rate / 50))
            for start in range(0, len(data), step):
                piece = data[start : start + step]
                self._proxy.tap(self, direction, piece)
                await loop.sock_sendall(sink, piece)
                await asyncio.sleep(len(piece) / rate)


class Proxy:
    """Relays a port of its own to the loopback's `target_port`, with the faults it is told of.

    host: the address to listen on; loopback, where nobody outside this machine is to reach it.
    All methods belong to the event loop that started it; from elsewhere use `ProxyThread`.
    """

    def __init__(self, target_port: int, *, port: int = 0, seed: int = 0,
                 host: str = HOST) -> None:
        self.target_port = target_port
        self.host = host
        self.port = port
        self.counts = Counts()
        # what somebody wants to see of the bytes just before they leave, and of each link's end
        self.tap: Callable[[Link, Direction, bytes], None] = lambda link, direction, data: None
        self.on_end: Callable[[Link], None] = lambda link: None
        self.rng = random.Random(seed)
        self._faults: dict[Direction, Fault] = {"up": Fault(), "down": Fault()}
        self._open: dict[Direction, asyncio.Event] = {}
        self._links: dict[Link, asyncio.Task[None]] = {}
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._refusing = False

    async def start(self) -> None:
        """Listen; the port is known afterwards."""
        self._open = {"up": asyncio.Event(), "down": asyncio.Event()}
        for event in self._open.values():
            event.set()
        self._listener = socket.create_server((self.host, self.port), backlog=1024)
        self._listener.setblocking(False)
        self.port = self._listener.getsockname()[1]
        self._accepting = asyncio.create_task(self._accept())

    async def stop(self) -> None:
        """Cut every connection and stop listening."""
        if self._accepting is not None:
            self._accepting.cancel()
            await asyncio.gather(self._accepting, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()
        tasks = list(self._links.values())
        self.cut(reset=False)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _accept(self) -> None:
        loop = asyncio.get_running_loop()
        assert self._listener is not None
        while True:
            client, _ = await loop.sock_accept(self._listener)
            client.setblocking(False)
            if self._refusing:
                self._refuse(client)
                continue
            task = asyncio.create_task(self._connect(client))
            del task  # it registers itself

    def _refuse(self, client: socket.socket) -> None:
        self.counts.refused += 1
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.close()

    async def _connect(self, client: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        server = socket.socket()
        server.setblocking(False)
        try:
            await loop.sock_connect(server, (HOST, self.target_port))
        except OSError:
            server.close()
            self._refuse(client)
            return
        for sock in (client, server):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = Link(self, client, server)
        task = asyncio.current_task()
        assert task is not None
        self._links[link] = task
        self.counts.connections += 1
        try:
            await link.run()
        finally:
            del self._links[link]

    # what the pumps ask

    async def until_open(self, direction: Direction) -> None:
        """Wait while this direction is a blackhole."""
        await self._open[direction].wait()

    def fault(self, direction: Direction) -> Fault:
        """Return the fault of a direction as it is now."""
        return self._faults[direction]

    def damage(self, direction: Direction, data: bytes) -> bytes:
        """Return the bytes as they come out at the other end."""
        data, hits = corrupt_bytes(data, self._faults[direction].corrupt, self.rng)
        self.counts.corrupted += hits
        return data

    def allowed(self, direction: Direction, data: bytes) -> int:
        """Return how many of these bytes may pass before the cut, and count it down."""
        fault = self._faults[direction]
        if fault.cut_after is None:
            return len(data)
        passing = min(len(data), fault.cut_after)
        fault.cut_after -= passing
        if passing < len(data):
            fault.cut_after = None  # once
        return passing

    def count(self, direction: Direction, passed: int) -> None:
        """Count bytes that are handed on."""
        if direction == "up":
            self.counts.bytes_up += passed
        else:
            self.counts.bytes_down += passed

    # what a test says

    def set_fault(self, fault: Fault, *directions: Direction) -> None:
        """Set the fault of these directions, of both where none is named."""
        for direction in directions or DIRECTIONS:
            self._faults[direction] = Fault(**_fields(fault))
            event = self._open[direction]
            if fault.blackhole:
                event.clear()
            else:
                event.set()

    def heal(self) -> None:
        """Take every fault away and accept connections again."""
        self.set_fault(Fault())
        self._refusing = False

    def refuse(self, refusing: bool = True) -> None:
        """Refuse new connections by RST, or accept them again."""
        self._refusing = refusing

    def cut(self, *, reset: bool = True) -> int:
        """End every connection, by RST or by FIN; returns how many there were."""
        links = list(self._links)
        for link in links:
            link.cut(reset=reset)
        self.counts.cuts += len(links)
        return len(links)

    @property
    def links(self) -> int:
        """How many connections there are now."""
        return len(self._links)

    async def __aenter__(self) -> Proxy:
        await self.start()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.stop()


def _fields(fault: Fault) -> dict[str, Any]:
    return {name: getattr(fault, name) for name in Fault.__slots__}
