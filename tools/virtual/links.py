"""The TCP connections of a virtual board, each run through us so that it can be broken.

tools/virtual/air.py says when anything gets through, tools/virtual/network.py how long it takes;
here is what becomes of a connection then:

    board connects -> SYN on its way -> we connect to the server -> ANSWERED on its way -> open

The board's kernel is connected to us at once. That it is connected to the server, its sockets
(rom/_slow.py) take from ANSWERED, the first byte that they get. On AT_ONCE there is none.
"""

from __future__ import annotations

import random
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass

from tools.virtual.network import Network
from tools.virtual.reactor import READ, WRITE, Reactor
from tools.virtual.way import Way

CHUNK = 65536
SYN, ANSWERED = b"s", b"+"


def abort(sock: socket.socket) -> None:
    """Close with a reset instead of a proper end."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    except OSError:
        pass
    sock.close()


@dataclass(eq=False)
class Link:
    """One connection: `near` is the board's end, `far` the server's; None where it is not there.

    key: the server's host and port.
    """

    key: tuple[str, int]
    near: socket.socket | None
    up: Way
    down: Way
    far: socket.socket | None = None
    open: bool = False


class Links:
    """All connections of a board. Used from the reactor's thread only.

    joined: whether the station is in its network, so that a new connection may begin. carries:
    whether anything gets through on those that stand.
    """

    def __init__(self, reactor: Reactor, network: Network, joined: Callable[[], bool],
                 carries: Callable[[], bool]) -> None:
        self._reactor, self._network = reactor, network
        self._joined, self._carries = joined, carries
        self._chance = random.Random(1)  # the same pieces each time
        self._routes: dict[tuple[str, int], socket.socket] = {}
        self._links: set[Link] = set()

    def route(self, host: str, port: int) -> int:
        """Give the local port that leads to host and port."""
        key = (host, port)
        if key not in self._routes:
            listener = socket.create_server(("127.0.0.1", 0), backlog=8)
            listener.setblocking(False)
            self._routes[key] = listener
            self._reactor.watch(listener.fileno(), READ, lambda _e: self._accept(key))
        return int(self._routes[key].getsockname()[1])

    def orphan(self) -> None:
        """Leave every far end as it is: the board is gone."""
        for link in list(self._links):
            self._orphan(link)

    def close(self) -> None:
        """Let go of every socket."""
        for link in list(self._links):
            self._drop(link)
        for listener in self._routes.values():
            self._reactor.watch(listener.fileno(), 0, self._nothing)
            listener.close()
        self._routes.clear()

    def refresh(self) -> None:
        """Look again at what may move, after the radio has changed."""
        for link in list(self._links):
            self._watch(link)

    def _accept(self, key: tuple[str, int]) -> None:
        try:
            near, _ = self._routes[key].accept()
        except OSError:
            return
        if not self._joined():
            abort(near)
            return
        near.setblocking(False)
        near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        up, down = (Way(self._network, self._chance) for _ in range(2))
        link = Link(key, near, up, down)
        self._links.add(link)
        up.send(SYN, time.monotonic())
        self._watch(link)

    def _dial(self, link: Link) -> None:
        """Connect to the server: the board's SYN has come there."""
        link.up.clear()
        try:
            family, kind, proto, _, address = socket.getaddrinfo(
                *link.key, type=socket.SOCK_STREAM
            )[0]
            link.far = socket.socket(family, kind, proto)
            link.far.setblocking(False)
            link.far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            link.far.connect_ex(address)
        except OSError:
            self._refuse(link)

    def _refuse(self, link: Link) -> None:
        """Let the board know that the server is not to be had."""
        if link.far is not None:
            self._reactor.watch(link.far.fileno(), 0, self._nothing)
            link.far.close()
            link.far = None
        link.down.end(time.monotonic(), cut=True)

    def _watch(self, link: Link) -> None:
        """Let come what is due, and wait for what may move on this connection now."""
        if link not in self._links:
            return
        carries = self._carries()
        if carries:
            self._arrive(link, link.up)
            self._arrive(link, link.down)
            if link.far is None and link.up.ready:
                self._dial(link)
                self._arrive(link, link.down)
            if self._is_over(link):
                return
        if link.near is not None:
            events = READ if not link.open else 0  # before it is, that can only be its end
            if carries and link.open:
                events |= READ if not link.up.ended and link.up.held < CHUNK else 0
            if carries:
                events |= WRITE if link.down.ready else 0
            self._reactor.watch(link.near.fileno(), events, lambda e: self._near(link, e))
        if link.far is not None:
            events = 0
            if carries and not link.open:
                events = WRITE
            elif carries:
                events |= READ if not link.down.ended and link.down.held < CHUNK else 0
                events |= WRITE if link.up.ready else 0
            self._reactor.watch(link.far.fileno(), events, lambda e: self._far(link, e))

    def _arrive(self, link: Link, way: Way) -> None:
        now_s = time.monotonic()
        due_s = way.arrive(now_s)
        if due_s is not None and way.alarm is None:

            def due() -> None:
                way.alarm = None
                self._watch(link)

            way.alarm = self._reactor.later(due_s - now_s, due)

    def _is_over(self, link: Link) -> bool:
        """Pass on an end that has come, once all before it is delivered; say whether it was."""
        if link.near is None and (link.far is None or link.down.ready or link.down.over):
            self._drop(link)  # the board that was rebooted knows nothing of this
            return True
        for way in (link.up, link.down):
            if way.over and not way.ready:
                self._drop(link, orderly=not way.cut)
                return True
        return False

    def _near(self, link: Link, events: int) -> None:
        if link.near is None:
            return
        if events & READ and not link.open:
            self._drop(link, orderly=True)  # the board gave up
            return
        if events & READ:
            self._pull(link.near, link.up)
        if events & WRITE and not self._push(link.near, link.down.ready):
            self._drop(link)
            return
        self._watch(link)

    def _far(self, link: Link, events: int) -> None:
        if link.far is None:
            return
        if not link.open:
            if link.far.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self._refuse(link)
            else:
                link.open = True
                if not self._network.at_once:
                    link.down.send(ANSWERED, time.monotonic())
        elif events & READ:
            self._pull(link.far, link.down)
        if link.far and events & WRITE and not self._push(link.far, link.up.ready):
            self._drop(link)
            return
        self._watch(link)

    def _orphan(self, link: Link) -> None:
        """The board is gone: keep the far end as it is."""
        if link.near is not None:
            self._reactor.watch(link.near.fileno(), 0, self._nothing)
            link.near.close()
            link.near = None
            link.up.clear()
        self._watch(link)

    def _drop(self, link: Link, *, orderly: bool = False) -> None:
        self._links.discard(link)
        for way in (link.up, link.down):
            if way.alarm is not None:
                way.alarm.cancel()
        for sock in (link.near, link.far):
            if sock is not None:
                self._reactor.watch(sock.fileno(), 0, self._nothing)
                if orderly:
                    sock.close()
                else:
                    abort(sock)

    @staticmethod
    def _pull(sock: socket.socket, way: Way) -> None:
        """Take what one end sent, or its end."""
        try:
            data = sock.recv(CHUNK)
        except BlockingIOError:
            return
        except OSError:
            way.end(time.monotonic(), cut=True)
            return
        if data:
            way.send(data, time.monotonic())
        else:
            way.end(time.monotonic(), cut=False)

    @staticmethod
    def _push(sock: socket.socket, data: bytearray) -> bool:
        try:
            sent = sock.send(data) if data else 0
        except BlockingIOError:
            return True
        except OSError:
            return False
        del data[:sent]
        return True

    @staticmethod
    def _nothing(_events: int) -> None:
        """Stand where a callback is asked for and none will come."""
