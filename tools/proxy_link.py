"""One connection through the fault proxy, and what its two pumps do to the bytes in it.

Rules:
- Each direction of each connection has its own pump.
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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from tools.proxy import Proxy

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
