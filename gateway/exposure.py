"""Who can reach what: the checks of the config that keep a gateway from standing open. Pure."""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Protocol

from msgspec import Struct, field

from gateway.acl import Allow
from gateway.relay import RelayConfig

CREDENTIAL = "credential:"  # a secret of systemd's LoadCredential=, by its name


class HttpConfig(Struct, forbid_unknown_fields=True):
    """`[http]`: metrics and health. listen: host:port on loopback, or "off"."""

    listen: str = "off"

    def address(self) -> tuple[str, int]:
        """Host and port."""
        host, _, port = self.listen.rpartition(":")
        return host.strip("[]"), int(port)


class PanelConfig(Struct, forbid_unknown_fields=True):
    """`[panel]`: GPIO numbers (BCM). hold_s: how long a long press is [s]."""

    led: int | None = None
    button: int | None = None
    hold_s: float = 3.0
    backlog: int = 1000  # messages from which the backlog counts as growing
    relay: list[RelayConfig] = field(default_factory=list)


class _Listener(Protocol):
    listen: str
    tls_listen: str
    cert_file: str | None
    key_file: str | None
    client_ca_file: str | None
    credentials: str | None
    allow_anonymous: bool

    def address(self, text: str | None = None) -> tuple[str, int]: ...


Problem = tuple[str, str]  # key, and what is wrong with its value


def loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def exposed(listener: _Listener, http: HttpConfig, panel: PanelConfig | None,
            rules: list[Allow]) -> Problem | None:
    """What is wrong; None where all is well."""
    return _listener(listener) or _tls(listener) or _http(http) or _panel(panel) or _rules(
        listener, rules)


def _listener(listener: _Listener) -> Problem | None:
    for key in ("listen", "tls_listen"):
        address = getattr(listener, key)
        if address == "off":
            continue
        try:
            host, port = listener.address(address)
        except ValueError:
            host, port = "", 0
        if not host or not 0 <= port <= 65535:
            return f"listener.{key}", f"{address!r}: write host:port, such as 0.0.0.0:8883"
        if listener.credentials is None and not listener.allow_anonymous and not loopback(host):
            return f"listener.{key}", (
                f"{address!r}: reached from outside this machine, and nobody has to log in; set "
                "listener.credentials, or say allow_anonymous = true, or listen on 127.0.0.1")
    return None


def _tls(listener: _Listener) -> Problem | None:
    if listener.tls_listen != "off":
        for key in ("cert_file", "key_file"):
            if getattr(listener, key) is None:
                return f"listener.{key}", "tls_listen needs it; `tidegate certs` makes one"
    return None


def _http(http: HttpConfig) -> Problem | None:
    if http.listen == "off":
        return None
    try:
        host, port = http.address()
    except ValueError:
        host, port = "", 0
    if not loopback(host) or not 0 <= port <= 65535:
        return "http.listen", f"{http.listen!r}: it asks for no password; write 127.0.0.1:port"
    return None


def _panel(panel: PanelConfig | None) -> Problem | None:
    if panel is None:
        return None
    for key in ("led", "button"):
        pin = getattr(panel, key)
        if pin is not None and not 0 <= pin <= 27:
            return f"panel.{key}", f"{pin}: a GPIO number, 0 to 27"
    if panel.led is not None and panel.led == panel.button:
        return "panel.button", f"{panel.button}: is the LED's"
    if not 0.5 <= panel.hold_s <= 30:
        return "panel.hold_s", f"{panel.hold_s}: 0.5 to 30"
    taken = {panel.led, panel.button}
    for index, relay in enumerate(panel.relay):
        problem = relay.problem()
        if problem is None and relay.pin in taken:
            problem = "pin", f"{relay.pin}: is taken already in [panel]"
        if problem:
            return f"panel.relay[{index}].{problem[0]}", problem[1]
        taken.add(relay.pin)
    return None


def _rules(listener: _Listener, rules: list[Allow]) -> Problem | None:
    for index, rule in enumerate(rules):
        problem = rule.problem()
        if problem:
            key, _, text = problem.partition(": ")
            return f"allow[{index}].{key}", text
    if rules and listener.credentials is None:
        return "allow", "rules without listener.credentials: nobody has a name"
    return None


def secret_path(named: str, folder: Path) -> str:
    """The path of a file that the config names: beside the config unless absolute.

    `credential:NAME` is a systemd credential (`LoadCredential=NAME:…` of the unit). Raises
    ValueError where systemd gave us none.
    """
    if not named.startswith(CREDENTIAL):
        return str(folder / named)
    given = os.environ.get("CREDENTIALS_DIRECTORY")
    if given is None:
        raise ValueError(f"{named}: systemd gave this process no credentials; add "
                         f"LoadCredential={named.removeprefix(CREDENTIAL)}:FILE to the unit")
    return str(Path(given) / named.removeprefix(CREDENTIAL))
