"""`[upstream]` and `[broker]`: how to reach a broker, and what is wrong with such a table.

Their settings are the same; docs/config.md has them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

from msgspec import Struct, field

from gateway.exposure import Problem
from gateway.proxy import SCHEMES, Proxy


def _first_words(file: str | None) -> str | None:
    return None if file is None else Path(file).read_text().strip()


class UpstreamConfig(Struct, forbid_unknown_fields=True):
    """`[upstream]`: the broker everything goes to.

    url: mqtt://, mqtts://, ws:// or wss://, with host, port and (WebSocket) path.
    proxy: socks5://host:port or http://host:port that the connection goes through.
    after_lost_session: what becomes of messages that had their PUBREC. dup_flag: false for EMQX
    from 6.2 on, which swallows what comes with DUP. qos_0: send to a broker that takes nothing
    else.
    """

    url: str = "mqtt://127.0.0.1:1883"
    protocol: Literal["3.1.1", "5"] = "3.1.1"
    client_id: str = ""
    username: str | None = None
    password_file: str | None = None
    ca_file: str | None = None
    cert_file: str | None = None
    key_file: str | None = None
    tls_insecure: bool = False
    proxy: str | None = None
    proxy_username: str | None = None
    proxy_password_file: str | None = None
    keepalive_s: int = 20
    inflight: int = 0  # 0: 20 at 3.1.1, what the broker says, at most 1000, at 5
    ack_timeout_s: float = 10.0
    after_lost_session: Literal["resend", "drop"] = "resend"
    dup_flag: bool = True
    qos_0: bool = False
    topic_prefix: str = ""

    @property
    def _parts(self) -> Any:
        return urlsplit(self.url)

    @property
    def host(self) -> str:
        return str(self._parts.hostname)

    @property
    def tls(self) -> bool:
        return self._parts.scheme in ("mqtts", "wss")

    @property
    def websocket(self) -> bool:
        return self._parts.scheme in ("ws", "wss")

    @property
    def websocket_path(self) -> str:
        return unquote(self._parts.path) or "/mqtt"

    @property
    def port(self) -> int:
        defaults = {"mqtt": 1883, "mqtts": 8883, "ws": 8083, "wss": 8084}
        return self._parts.port or defaults[self._parts.scheme]

    def password_text(self) -> str | None:
        """The password, read from its file."""
        return _first_words(self.password_file)

    def through(self) -> Proxy | None:
        """The proxy, its password read from its file."""
        if self.proxy is None:
            return None
        parts = urlsplit(self.proxy)
        return Proxy(parts.scheme, str(parts.hostname), parts.port or 0,
                     self.proxy_username or "", _first_words(self.proxy_password_file) or "")


class BrokerConfig(UpstreamConfig, forbid_unknown_fields=True):
    """`[broker]`: a broker that already stands, to take messages from.

    The link's settings are those of `[upstream]`. filters: what to subscribe to.
    """

    filters: list[str] = field(default_factory=lambda: ["#"])


def link_problem(link: UpstreamConfig, name: str) -> Problem | None:
    """What is wrong with a link, as key and text; None where all is well. name: of its table."""
    try:
        good = urlsplit(link.url).scheme in ("mqtt", "mqtts", "ws", "wss") \
            and bool(link.host) and link.host != "None" and link.port > 0
    except (ValueError, KeyError):
        good = False
    if not good:
        return "url", f"{link.url!r}: write mqtt://host:1883, mqtts://, ws:// or wss://"
    if "@" in urlsplit(link.url).netloc:
        return "url", ("holds a user name; write it as "
                       f"{name}.username and the password into {name}.password_file")
    if any(sign in link.topic_prefix for sign in "+#\0") or len(link.topic_prefix) > 1000:
        return "topic_prefix", f"{link.topic_prefix[:80]!r}: the start of a topic, without + and #"
    return _proxy_problem(link, name)


def _proxy_problem(link: UpstreamConfig, name: str) -> Problem | None:
    if link.proxy is None:
        if link.proxy_username is None and link.proxy_password_file is None:
            return None
        return "proxy", ("missing, but there is a login for it; write socks5://host:1080 or "
                         "http://host:3128")
    try:
        parts = urlsplit(link.proxy)
        named = "@" in parts.netloc
        good = named or (parts.scheme in SCHEMES and bool(parts.hostname) and bool(parts.port)
                         and parts.path in ("", "/"))
    except ValueError:
        good = False
    if not good:
        return "proxy", f"{link.proxy!r}: write socks5://host:1080 or http://host:3128"
    if named:
        return "proxy", ("holds a user name; write it as "
                         f"{name}.proxy_username and the password into {name}.proxy_password_file")
    if (link.proxy_username is None) != (link.proxy_password_file is None):
        return "proxy_username", "user name and proxy_password_file go together"
    if parts.scheme == "http" and ":" in (link.proxy_username or ""):
        return "proxy_username", "no colon; HTTP puts one between name and password"
    return None
