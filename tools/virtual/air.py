"""The radio of a virtual board: an access point that can vanish, and paths that then fall silent.

Every TCP connection of the board runs through here, so it can be broken as radio breaks it:

    radio off (`on = False`)   the station notices; connections stay open at both ends and carry
                               nothing until it is back, as TCP does over a lost link
    network silent             the station stays connected; nothing gets through either
    power cut, reset           the far end keeps a half-open connection and is told nothing; if it
                               sends to the board when it has power again, it gets a reset
    soft reset                 the connections are closed in order
"""

from __future__ import annotations

import socket
import struct
from dataclasses import dataclass, field
from typing import Any

from tools.virtual.reactor import READ, WRITE, Alarm, Reactor

CHUNK = 65536
CONNECTING, GOT_IP, IDLE = 1001, 1010, 1000
BEACON_TIMEOUT, NO_AP_FOUND, WRONG_PASSWORD = 200, 201, 202
NO_HOST = -202  # what the ESP32's getaddrinfo raises
ASSOCIATE_S = 0.05


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


class Air:
    """What is between a board's antenna and the network. Used from the reactor's thread only.

    ssid, password: what the access point wants; None takes any.
    """

    def __init__(self, reactor: Reactor, ssid: str | None, password: str | None) -> None:
        self.ssid, self.password = ssid, password
        self.rssi_dbm = -61
        self.hostname = "espressif"
        self.connects = 0  # connections the board ever opened
        self._reactor = reactor
        self._on = True
        self._silent = False
        self._powered = False
        self._active = False
        self._status = IDLE
        self._wanted: tuple[Any, Any] | None = None
        self._alarm: Alarm | None = None
        self._routes: dict[tuple[str, int], socket.socket] = {}
        self._links: set[Link] = set()

    # The world's side.

    @property
    def carries(self) -> bool:
        """Say whether anything gets through."""
        return self._on and not self._silent and self._powered and self._status == GOT_IP

    def switch(self, on: bool) -> None:
        """Switch the access point on or off."""
        self._on = on
        if not on and self._status == GOT_IP:
            self._status = BEACON_TIMEOUT
        elif on and self._wanted is not None and self._status != GOT_IP:
            self._associate()
        self._refresh()

    def silence(self, silent: bool) -> None:
        """Let the network behind the access point carry nothing, or something again."""
        self._silent = silent
        self._refresh()

    def power(self, on: bool) -> None:
        """Follow the board's power: without it, far ends are left with half-open connections."""
        self._powered = on
        if not on:
            self._active, self._status, self._wanted = False, IDLE, None
            for link in list(self._links):
                self._orphan(link)
        self._refresh()

    def close(self) -> None:
        """Let go of every socket."""
        for link in list(self._links):
            self._drop(link)
        for listener in self._routes.values():
            self._reactor.watch(listener.fileno(), 0, self._nothing)
            listener.close()
        self._routes.clear()

    # The board's side.

    def request(self, what: str, value: Any) -> Any:
        """Answer the station's driver."""
        if what == "active":
            if value is not None:
                self._active = bool(value)
                if not value:
                    self._leave()
            return self._active
        if what == "connect":
            if not self._active:
                raise OSError("Wifi Not Started")
            self._wanted = (value[0], value[1])
            self._associate()
            return None
        if what == "disconnect":
            self._leave()
            return None
        if what == "connected":
            return self._status == GOT_IP
        if what == "status":
            return self.rssi_dbm if value == "rssi" else self._status
        if what == "scan":
            return [[self.ssid or "tidegate", self.rssi_dbm]] if self._on else []
        if what == "ifconfig":
            here = self._status == GOT_IP
            return (
                ["192.0.2.10", "255.255.255.0", "192.0.2.1", "192.0.2.1"]
                if here
                else ["0.0.0.0"] * 4
            )
        if what == "hostname":
            self.hostname = value or self.hostname
            return self.hostname
        return {"ssid": self.ssid, "essid": self.ssid, "channel": 6, "txpower": 20}.get(value)

    def route(self, host: str, port: int) -> tuple[str, int]:
        """Give the local address that leads to host and port; OSError where there is no net."""
        if not self.carries:
            raise OSError(NO_HOST)
        key = (host, port)
        if key not in self._routes:
            listener = socket.create_server(("127.0.0.1", 0), backlog=8)
            listener.setblocking(False)
            self._routes[key] = listener
            self._reactor.watch(listener.fileno(), READ, lambda _e: self._accept(key))
        return "127.0.0.1", int(self._routes[key].getsockname()[1])

    def _leave(self) -> None:
        self._wanted, self._status = None, IDLE
        self._refresh()

    def _associate(self) -> None:
        self._status = CONNECTING
        if self._alarm:
            self._alarm.cancel()
        self._alarm = self._reactor.later(ASSOCIATE_S, self._associated)
        self._refresh()

    def _associated(self) -> None:
        self._alarm = None
        if self._wanted is None or not self._powered:
            return
        ssid, password = self._wanted
        if not self._on or (self.ssid is not None and ssid != self.ssid):
            self._status = NO_AP_FOUND
        elif self.password is not None and password != self.password:
            self._status = WRONG_PASSWORD
        else:
            self._status = GOT_IP
        self._refresh()

    # The connections.

    def _accept(self, key: tuple[str, int]) -> None:
        try:
            near, _ = self._routes[key].accept()
        except OSError:
            return
        if not self._on or self._status != GOT_IP:
            abort(near)
            return
        self.connects += 1
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

    def _refresh(self) -> None:
        for link in list(self._links):
            self._watch(link)

    def _watch(self, link: Link) -> None:
        """Wait for what may move on this connection now."""
        carries = self.carries
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
