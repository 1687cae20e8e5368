"""Real proxies for tests of the way upstream: microsocks (SOCKS5) and tinyproxy (HTTP CONNECT).

Both are Debian's packages, unpacked in the project's cache, and listen on loopback alone.
"""

from __future__ import annotations

from pathlib import Path

from tools import debian
from tools.ports import HOST
from tools.served import Served


class OtherProxy(Served):
    """A proxy. login: user name and password that it asks for; None: lets everybody through."""

    scheme: str

    def __init__(self, folder: Path, login: tuple[str, str] | None = None) -> None:
        self._login = login
        super().__init__(folder)

    @staticmethod
    def _fetch(name: str, package: str) -> list[str]:
        return debian.fetch(name, [package], suite=debian.os_release().get(
            "VERSION_CODENAME", "stable")).program(name)


class MicroSocks(OtherProxy):
    """SOCKS5."""

    scheme = "socks5"

    def _command(self) -> list[str]:
        login = ["-u", self._login[0], "-P", self._login[1]] if self._login else []
        return [*self._fetch("microsocks", "microsocks"), "-i", HOST, "-p", str(self.port), *login]


class TinyProxy(OtherProxy):
    """HTTP CONNECT. connect_port: the only port it connects to; None: any."""

    scheme = "http"

    def __init__(self, folder: Path, login: tuple[str, str] | None = None, *,
                 connect_port: int | None = None) -> None:
        self._connect_port = connect_port
        super().__init__(folder, login)

    def _command(self) -> list[str]:
        lines = [f"Port {self.port}", f"Listen {HOST}", f"Allow {HOST}", "Timeout 600",
                 "LogLevel Info"]
        if self._login:
            lines.append(f"BasicAuth {self._login[0]} {self._login[1]}")
        if self._connect_port:
            lines.append(f"ConnectPort {self._connect_port}")
        config = self.folder.absolute() / "tinyproxy.conf"
        config.write_text("\n".join(lines) + "\n")
        return [*self._fetch("tinyproxy", "tinyproxy-bin"), "-d", "-c", str(config)]
