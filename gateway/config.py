"""The config file: TOML, checked before any socket opens; one line says what is wrong, where."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

import msgspec
from msgspec import Struct, field

from gateway import identity
from gateway.acl import Allow
from gateway.errors import ConfigError
from gateway.exposure import CREDENTIAL, HttpConfig, PanelConfig, exposed, secret_path
from gateway.links import BrokerConfig as BrokerConfig
from gateway.links import UpstreamConfig as UpstreamConfig
from gateway.links import link_problem
from gateway.routes import Route
from gateway.wire import check_filter

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMG]?)i?B?", re.IGNORECASE)
_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}


LEAST_DEAD_S = 3


class ListenerConfig(Struct, forbid_unknown_fields=True):
    """`[listener]`: where devices connect and what one of them may do.

    listen: host:port, or "off" where a `[broker]` or tls_listen is the only way in.
    credentials: the file of `tidegate device`; then everybody has to log in, unless
    allow_anonymous. cert_file, key_file: ours, for tls_listen. client_ca_file: who signs the
    devices' certificates, which they then have to show.
    """

    listen: str = "127.0.0.1:1883"
    tls_listen: str = "off"
    cert_file: str | None = None
    key_file: str | None = None
    client_ca_file: str | None = None
    credentials: str | None = None
    allow_anonymous: bool = False
    max_connections: int = 1000
    max_packet_bytes: int = 262_144
    max_unacked_bytes: int = 1_048_576
    max_messages_per_s: float = 0  # a connection; 0: no limit
    connect_timeout_s: float = 5.0
    dead_peer_s: int = 15  # 0: only MQTT's keepalive
    will_grace_s: float = 60.0

    def address(self, text: str | None = None) -> tuple[str, int]:
        """Host and port of `listen`, or of another address written like it."""
        host, _, port = (self.listen if text is None else text).rpartition(":")
        return host.strip("[]"), int(port)

    def tls_files(self) -> tuple[str, str, str | None]:
        """Certificate, key and the devices' CA."""
        return self.cert_file or "", self.key_file or "", self.client_ca_file


class OutboxConfig(Struct, forbid_unknown_fields=True):
    """`[outbox]`: the disk."""

    path: str = "outbox.db"
    commit_ms: float = 200
    commit_bytes: int = 32_768
    max_size: str = "1 GiB"

    def max_bytes(self) -> int:
        """`max_size` in bytes."""
        found = _SIZE.fullmatch(self.max_size.strip())
        if not found:
            raise ValueError(self.max_size)
        return int(float(found[1]) * _UNITS[found[2].upper()])


class Config(Struct, forbid_unknown_fields=True):
    """The whole file. id: see identity.py."""

    id: str = field(default_factory=str)  # empty: the outbox's
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    listener: ListenerConfig = field(default_factory=ListenerConfig)
    outbox: OutboxConfig = field(default_factory=OutboxConfig)
    upstream: UpstreamConfig = field(default_factory=UpstreamConfig)
    broker: BrokerConfig | None = None
    route: list[Route] = field(default_factory=lambda: [Route()])
    allow: list[Allow] = field(default_factory=list)
    http: HttpConfig = field(default_factory=HttpConfig)
    panel: PanelConfig | None = None


def load(path: Path, *, running: bool = True, look: bool = True) -> Config:
    """Read and check a config. Raises ConfigError, whose text is one line.

    running: as the service itself; other commands have no systemd credentials, and leave them as
    they are named. look: whether the files it names have to be there.
    """
    try:
        raw = tomllib.loads(path.read_text())
    except OSError as error:
        raise ConfigError(str(path), "", f"cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(str(path), "", f"not TOML: {error}") from error
    try:
        config = msgspec.convert(raw, Config)
    except msgspec.ValidationError as error:
        text, _, where = str(error).partition(" - at ")
        key = where.strip("`").removeprefix("$").removeprefix(".")
        unknown = re.search(r"unknown field `(.+)`", text)
        if unknown:
            key = f"{key}.{unknown[1]}".removeprefix(".")
            raise ConfigError(str(path), key, "no such setting; see docs/config.md") from error
        value, right = _value_at(raw, key), text[0].lower() + text[1:]
        if text.startswith("Invalid enum value"):
            right = f"use one of {', '.join(map(repr, _choices(key)))}"
        raise ConfigError(str(path), key, f"{value!r}: {right}") from error
    _find_files(config, path, running, look)
    config.outbox.path = str(path.parent / config.outbox.path)
    if "id" not in raw:
        config.id = identity.of(Path(config.outbox.path))
    _check(config, str(path))
    for link, suffix in ((config.upstream, ""), (config.broker, "-in")):
        if link is not None and not link.client_id:
            link.client_id = f"tidegate-{config.id}{suffix}"
    return config


def outbox_of(path: Path) -> Path:
    """Where a config has its outbox, for commands that may see no secret. Raises ConfigError."""
    return Path(load(path, running=False, look=False).outbox.path)


def refuse_loop(config: Config, path: Path) -> None:
    """Raise ConfigError where a link leads to our own listener: what is sent comes in again."""
    def loopback(host: str) -> bool:
        return host in ("localhost", "::1") or host.startswith("127.")

    listener = config.listener
    ours = [listener.address(text) for text in (listener.listen, listener.tls_listen)
            if text != "off"]
    links: list[tuple[str, UpstreamConfig | BrokerConfig]] = [("upstream", config.upstream)]
    if config.broker is not None:
        links.append(("broker", config.broker))
    for name, link in links:
        for host, port in ours:
            anywhere = host in ("", "0.0.0.0", "::") or loopback(host)
            if port == link.port and (link.host == host or (anywhere and loopback(link.host))):
                raise ConfigError(str(path), f"{name}.url", f"{link.url!r}: is this gateway "
                                  "itself (listener.listen); write the broker's own host:port")


def _choices(key: str) -> tuple[Any, ...]:
    """The values that the setting at key may have."""
    table = Route if key.startswith("route[") else \
        UpstreamConfig if key.startswith("upstream.") else Config
    return get_args(get_type_hints(table)[key.rpartition(".")[2]])


def _value_at(raw: Any, key: str) -> Any:
    for part in re.findall(r"[^.\[\]]+", key):
        try:
            raw = raw[int(part)] if isinstance(raw, list) else raw[part]
        except (KeyError, IndexError, ValueError):
            return None
    return raw


def _check(config: Config, file: str) -> None:
    """What types cannot say."""
    if not identity.ID.fullmatch(config.id):
        raise ConfigError(file, "id", f"{config.id!r}: use 1 to 64 of A-Z a-z 0-9 _ -")
    listener, outbox, upstream = config.listener, config.outbox, config.upstream
    try:
        host, port = listener.address() if listener.listen != "off" else ("off", 0)
        right = bool(host) and 0 <= port <= 65535
    except ValueError:
        right = False
    if not right:
        raise ConfigError(file, "listener.listen",
                          f"{listener.listen!r}: write host:port, such as 0.0.0.0:1883")
    try:
        small = outbox.max_bytes() < 65_536
    except ValueError as error:
        raise ConfigError(file, "outbox.max_size",
                          f"{error}: write a size, such as 500 MiB") from error
    if small:
        raise ConfigError(file, "outbox.max_size", f"{outbox.max_size!r}: at least 64 KiB")
    for key, value, least in (
            ("listener.max_connections", listener.max_connections, 1),
            ("listener.max_packet_bytes", listener.max_packet_bytes, 128),
            ("listener.max_unacked_bytes", listener.max_unacked_bytes, 1024),
            ("listener.max_messages_per_s", listener.max_messages_per_s, 0),
            ("listener.connect_timeout_s", listener.connect_timeout_s, 0.1),
            ("listener.dead_peer_s", listener.dead_peer_s, 0),
            ("listener.will_grace_s", listener.will_grace_s, 0),
            ("outbox.commit_ms", outbox.commit_ms, 0),
            ("outbox.commit_bytes", outbox.commit_bytes, 1),
            ("upstream.inflight", upstream.inflight, 0),
            ("upstream.keepalive_s", upstream.keepalive_s, 5),
            ("upstream.ack_timeout_s", upstream.ack_timeout_s, 1)):
        if not value >= least:  # so said, it also catches nan
            raise ConfigError(file, key, f"{value}: at least {least}")
    if 0 < listener.dead_peer_s < LEAST_DEAD_S:
        raise ConfigError(file, "listener.dead_peer_s", f"{listener.dead_peer_s}: 0, or at least "
                          f"{LEAST_DEAD_S}")
    for key, value, most in (
            ("listener.connect_timeout_s", listener.connect_timeout_s, 3600),
            ("listener.dead_peer_s", listener.dead_peer_s, 86_400),
            ("listener.will_grace_s", listener.will_grace_s, 86_400),
            ("outbox.commit_ms", outbox.commit_ms, 60_000),
            ("upstream.inflight", upstream.inflight, 20_000),
            ("upstream.keepalive_s", upstream.keepalive_s, 65_535),
            ("upstream.ack_timeout_s", upstream.ack_timeout_s, 3600)):
        if value > most:
            raise ConfigError(file, key, f"{value}: at most {most}")
    for name, link in (("upstream", upstream), ("broker", config.broker)):
        wrong = None if link is None else link_problem(link, name)
        if wrong:
            raise ConfigError(file, f"{name}.{wrong[0]}", wrong[1])
    if config.broker is not None:
        if (config.broker.host, config.broker.port) == (upstream.host, upstream.port):
            raise ConfigError(file, "broker.url", f"{config.broker.url!r}: is the upstream too; "
                              "everything sent there would come back as new")
        for topic_filter in config.broker.filters:
            try:
                check_filter(topic_filter.encode())
            except ValueError as error:
                raise ConfigError(file, "broker.filters", str(error)) from error
    elif listener.listen == listener.tls_listen == "off":
        raise ConfigError(file, "listener.listen", "'off' without a [broker]: nothing would come "
                          "in; write host:port, such as 0.0.0.0:1883")
    for index, route in enumerate(config.route):
        problem = route.problem()
        if problem:
            key, _, text = problem.partition(": ")
            raise ConfigError(file, f"route[{index}].{key}", text)
    open_to = exposed(listener, config.http, config.panel, config.allow)
    if open_to:
        raise ConfigError(file, *open_to)


def _find_files(config: Config, file: Path, running: bool, look: bool) -> None:
    """Make the names of files into paths: beside the config, or a systemd credential."""
    for name, table in (("upstream", config.upstream), ("broker", config.broker),
                        ("listener", config.listener)):
        for key in ("password_file", "proxy_password_file", "ca_file", "cert_file", "key_file",
                    "client_ca_file", "credentials"):
            named = getattr(table, key, None)
            if named is None or (named.startswith(CREDENTIAL) and not running):
                continue
            try:
                found = secret_path(named, file.parent)
                if look and not Path(found).is_file():
                    hint = "; `tidegate device add` makes it" if key == "credentials" else ""
                    raise ValueError(f"{found}: no such file{hint}")
            except (OSError, ValueError) as error:
                raise ConfigError(str(file), f"{name}.{key}", str(error)) from error
            setattr(table, key, found)
