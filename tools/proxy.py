"""A fault proxy: a TCP relay whose link can be made to lie; tools/proxy_link.py says how.

The *fault* of a direction is shared by all connections and may be changed at any time, also
while bytes are under way.
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from tools.ports import HOST
from tools.proxy_link import DIRECTIONS, Direction, Fault, Link, corrupt_bytes


@dataclass(slots=True)
class Counts:
    """What has happened so far."""

    connections: int = 0
    refused: int = 0
    cuts: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    corrupted: int = 0


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
