"""The way to a broker through a proxy, HTTP CONNECT or SOCKS5: the only file that imports
python_socks.

HTTP goes by the standard library's http.client: python-socks 3.2 reads an HTTP proxy's answer in
one `recv`, and what came later of it would be taken for the broker's. Names are left to the
proxy, which is often the only one that can look them up.
"""

from __future__ import annotations

import base64
import http.client
import socket
from typing import NamedTuple

import python_socks
from python_socks.sync import Proxy as Socks

from gateway.errors import UnreachableError

SCHEMES = ("socks5", "http")
_TUNNEL = "Tunnel connection failed: "  # how http.client begins what the proxy said


class Proxy(NamedTuple):
    """Where it is, and how to log in there; no name: without."""

    scheme: str
    host: str
    port: int
    username: str
    password: str

    def __repr__(self) -> str:
        return f"{self.host}:{self.port}"


def connect(proxy: Proxy, host: str, port: int, timeout_s: float) -> socket.socket:
    """Blocking: a socket to host and port. timeout_s: for each step [s].

    Raises UnreachableError, whose text names the proxy and what it said.
    """
    way = _by_http if proxy.scheme == "http" else _by_socks
    try:
        return way(proxy, host, port, timeout_s)
    except TimeoutError as error:
        raise _failed(proxy, f"no answer within {timeout_s:g} s") from error
    except (OSError, ValueError, AssertionError, http.client.HTTPException,
            python_socks.ProxyError) as error:
        cause = error.__cause__ if isinstance(error, python_socks.ProxyConnectionError) else error
        text = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
        raise _failed(proxy, text.removeprefix(_TUNNEL)) from error


def _failed(proxy: Proxy, why: str) -> UnreachableError:
    return UnreachableError(f"proxy {proxy!r}: {why}")


def _by_socks(proxy: Proxy, host: str, port: int, timeout_s: float) -> socket.socket:
    for text in (proxy.username, proxy.password):
        if not text.isascii() or len(text) > 255:
            raise ValueError("its user name and password have to be ASCII, at most 255 characters")
    return Socks(python_socks.ProxyType.SOCKS5, proxy.host, proxy.port, proxy.username or None,
                 proxy.password or None).connect(host, port, timeout=timeout_s)


def _by_http(proxy: Proxy, host: str, port: int, timeout_s: float) -> socket.socket:
    headers = {}
    if proxy.username:
        login = base64.b64encode(f"{proxy.username}:{proxy.password}".encode()).decode()
        headers["Proxy-Authorization"] = f"Basic {login}"
    link = http.client.HTTPConnection(proxy.host, proxy.port, timeout=timeout_s)
    # an IPv6 address in brackets: Python 3.11 sends it as it is given
    link.set_tunnel(f"[{host}]" if ":" in host else host, port, headers)
    try:
        link.connect()
    except BaseException:
        link.close()
        raise
    return link.sock
