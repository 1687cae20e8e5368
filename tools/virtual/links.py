"""The TCP connections of a virtual board, each run through us so that it can be broken.

tools/virtual/air.py says when anything gets through; here is what becomes of a connection then.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass, field

from tools.virtual.reactor import READ, WRITE, Reactor

CHUNK = 65536


def abort(sock: socket.socket) -> None:
    """Close with a reset instead of a proper end."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    except OSError:
        pass
    sock.close()


@dataclass(eq=False)
class Link:
    """One connection: `near` is the board's end, `far` the server's; None where it is gone."""

    near: socket.socket | None
    far: socket.socket | None
    up: bytearray = field(default_factory=bytearray)
    down: bytearray = field(default_factory=bytearray)
    near_ended: bool = False
    far_ended: bool = False
    connecting: bool = True


class Links:
    """All connections of a board. Used from the reactor's thread only.

    joined: whether the station is in its network, so that a new connection may begin. carries:
    whether anything gets through on those that stand.
    """

    def __init__(self, reactor: Reactor, joined: Callable[[], bool],
                 carries: Callable[[], bool]) -> None:
        self._reactor, self._joined, self._carries = reactor, joined, carries
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
        far = None
        try:
            family, kind, proto, _, address = socket.getaddrinfo(
                key[0], key[1], type=socket.SOCK_STREAM
            )[0]
            far = socket.socket(family, kind, proto)
            far.setblocking(False)
            far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            far.connect_ex(address)
        except OSError:
            abort(near)
            if far is not None:
                far.close()
            return
        link = Link(near, far)
        self._links.add(link)
        self._watch(link)

    def refresh(self) -> None:
        """Look again at what may move, after the radio has changed."""
        for link in list(self._links):
            self._watch(link)

    def _watch(self, link: Link) -> None:
        """Wait for what may move on this connection now."""
        carries = self._carries()
        if link.near is not None:
            events = 0
            if carries and not link.connecting:
                events |= READ if not link.near_ended and len(link.up) < CHUNK else 0
                events |= WRITE if link.down else 0
            self._reactor.watch(link.near.fileno(), events, lambda e: self._near(link, e))
        if link.far is not None:
            events = 0
            if carries and link.connecting:
                events = WRITE
            elif carries:
                events |= READ if not link.far_ended and len(link.down) < CHUNK else 0
                events |= WRITE if link.up else 0
            self._reactor.watch(link.far.fileno(), events, lambda e: self._far(link, e))

    def _near(self, link: Link, events: int) -> None:
        if link.near is None:
            return
        if events & READ and not self._pull(link.near, link.up):
            link.near_ended = True
        if events & WRITE and not self._push(link.near, link.down):
            self._drop(link)
            return
        self._settle(link)

    def _far(self, link: Link, events: int) -> None:
        if link.far is None:
            return
        if link.connecting:
            link.connecting = False
            if link.far.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self._drop(link)
                return
        if events & READ and not self._pull(link.far, link.down):
            link.far_ended = True
        if link.near is None and (link.down or link.far_ended):
            self._drop(link)  # the board that was rebooted knows nothing of this
            return
        if events & WRITE and not self._push(link.far, link.up):
            self._drop(link)
            return
        self._settle(link)

    def _settle(self, link: Link) -> None:
        """Pass on what ended, once nothing is on its way any more."""
        if (link.near_ended and not link.up) or (link.far_ended and not link.down):
            self._drop(link, orderly=True)
        else:
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
        for sock in (link.near, link.far):
            if sock is not None:
                self._reactor.watch(sock.fileno(), 0, self._nothing)
                if orderly:
                    sock.close()
                else:
                    abort(sock)

    @staticmethod
    def _pull(sock: socket.socket, into: bytearray) -> bool:
        try:
            data = sock.recv(CHUNK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        into += data
        return bool(data)

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
