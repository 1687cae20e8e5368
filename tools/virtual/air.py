"""The radio of a virtual board: an access point that can vanish, and paths that then fall silent.

Every TCP connection of the board runs through here, so it can be broken as radio breaks it:

    radio off (`on = False`)   the station notices; connections stay open at both ends and carry
                               nothing until it is back, as TCP does over a lost link
    network silent             the station stays connected; nothing gets through either
    power cut, reset           the far end keeps a half-open connection and is told nothing; if it
                               sends to the board when it has power again, it gets a reset
    soft reset                 the connections are closed in order

How long anything takes is in tools/virtual/network.py.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from tools.virtual.links import Links
from tools.virtual.network import Network
from tools.virtual.reactor import Alarm, Reactor

CONNECTING, GOT_IP, IDLE = 1001, 1010, 1000
BEACON_TIMEOUT, NO_AP_FOUND, WRONG_PASSWORD = 200, 201, 202
NO_HOST = -202  # what the ESP32's getaddrinfo raises
ASSOCIATE_S = 0.05


class Air:
    """What is between a board's antenna and the network. Used from the reactor's thread only.

    ssid, password: what the access point wants; None takes any. names_fail: nobody knows a name;
    that is said after as long as knowing one takes.
    """

    def __init__(self, reactor: Reactor, ssid: str | None, password: str | None,
                 network: Network) -> None:
        self.ssid, self.password = ssid, password
        self.network = network
        self.names_fail = False
        self.rssi_dbm = -61
        self.hostname = "espressif"
        self._reactor = reactor
        self._on = True
        self._silent = False
        self._powered = False
        self._active = False
        self._status = IDLE
        self._wanted: tuple[Any, Any] | None = None
        self._alarm: Alarm | None = None
        self._links = Links(reactor, network, lambda: self._joined, lambda: self.carries)

    # The world's side.

    @property
    def carries(self) -> bool:
        """Say whether anything gets through."""
        return self._joined and not self._silent and self._powered

    @property
    def _joined(self) -> bool:
        return self._on and self._status == GOT_IP

    def switch(self, on: bool) -> None:
        """Switch the access point on or off."""
        self._on = on
        if not on and self._status == GOT_IP:
            self._status = BEACON_TIMEOUT
        elif on and self._wanted is not None and self._status != GOT_IP:
            self._associate()
        self._links.refresh()

    def silence(self, silent: bool) -> None:
        """Let the network behind the access point carry nothing, or something again."""
        self._silent = silent
        self._links.refresh()

    def power(self, on: bool) -> None:
        """Follow the board's power: without it, far ends are left with half-open connections."""
        self._powered = on
        if not on:
            self._active, self._status, self._wanted = False, IDLE, None
            self._links.orphan()
        self._links.refresh()

    def close(self) -> None:
        """Let go of every socket."""
        self._links.close()

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
            if self._status == CONNECTING:
                raise OSError("Wifi Internal Error")
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

    def look_up_s(self, host: str) -> float:
        """Give how long looking that up takes [s]; an address takes none."""
        try:
            ipaddress.ip_address(host)
        except ValueError:
            return self.network.names_ms / 1000
        return 0.0

    def route(self, host: str, port: int) -> tuple[str, int]:
        """Give the local address that leads to host and port.

        Raises OSError where there is no net or nobody knows the name.
        """
        if not self.carries or (self.names_fail and self.look_up_s(host)):
            raise OSError(NO_HOST)
        return "127.0.0.1", self._links.route(host, port)

    def _leave(self) -> None:
        self._wanted, self._status = None, IDLE
        self._links.refresh()

    def _associate(self) -> None:
        self._status = CONNECTING
        if self._alarm:
            self._alarm.cancel()
        self._alarm = self._reactor.later(ASSOCIATE_S, self._associated)
        self._links.refresh()

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
        self._links.refresh()
