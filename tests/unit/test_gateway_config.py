"""gateway/config.py: what is wrong, where, with which value, and what would be right; one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from gateway.config import Config, load, outbox_of, refuse_loop
from gateway.errors import ConfigError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "tidegate.toml"


def loaded(path: Path, text: str) -> Config:
    path.write_text(text)
    return load(path)


def test_empty_file_is_a_good_config(path: Path) -> None:
    config = loaded(path, "")
    assert config.upstream.client_id == f"tidegate-{config.id}"
    assert config.outbox.path == str(path.parent / "outbox.db")
    assert len(config.route) == 1


@pytest.mark.parametrize(("text", "parts"), [
    ('id = "a b"', ["id", "'a b'", "A-Z"]),
    ("id = 5", ["id", "5", "`str`"]),
    ('log_level = "loud"', ["log_level", "'loud'", "'warning'"]),
    ("colour = 1", ["colour", "no such setting"]),
    ('[listener]\nlisten = "1883"', ["listener.listen", "'1883'", "0.0.0.0:1883"]),
    ('[listener]\nlisten = "h:x"', ["listener.listen", "'h:x'", "0.0.0.0:1883"]),
    ('[listener]\nlisten = "h:65536"', ["listener.listen", "65536"]),
    ("[listener]\nlisten = 1883", ["listener.listen", "1883", "`str`"]),
    ("[listener]\nmax_conections = 1", ["listener.max_conections", "no such setting"]),
    ("[listener]\nmax_connections = 0", ["listener.max_connections", "0", "at least 1"]),
    ("[listener]\nmax_packet_bytes = 3", ["listener.max_packet_bytes", "3", "at least 128"]),
    ("[listener]\nmax_unacked_bytes = 3", ["listener.max_unacked_bytes", "at least 1024"]),
    ("[listener]\nmax_messages_per_s = -1", ["listener.max_messages_per_s", "at least 0"]),
    ("[listener]\nmax_messages_per_s = nan", ["listener.max_messages_per_s", "nan"]),
    ("[listener]\nconnect_timeout_s = 0", ["listener.connect_timeout_s", "at least 0.1"]),
    ("[listener]\nconnect_timeout_s = inf", ["listener.connect_timeout_s", "at most"]),
    ("[listener]\nwill_grace_s = -1", ["listener.will_grace_s", "at least 0"]),
    ("[outbox]\ncommit_ms = -1", ["outbox.commit_ms", "at least 0"]),
    ("[outbox]\ncommit_ms = inf", ["outbox.commit_ms", "at most"]),
    ("[outbox]\ncommit_bytes = 0", ["outbox.commit_bytes", "at least 1"]),
    ('[outbox]\nmax_size = "big"', ["outbox.max_size", "big", "500 MiB"]),
    ('[outbox]\nmax_size = "1 KiB"', ["outbox.max_size", "1 KiB", "at least 64 KiB"]),
    ('[upstream]\nurl = "http://h"', ["upstream.url", "http://h", "mqtt://host:1883"]),
    ('[upstream]\nurl = "mqtt://"', ["upstream.url", "mqtt://host:1883"]),
    ('[upstream]\nurl = "mqtt://h:x"', ["upstream.url", "mqtt://host:1883"]),
    ('[upstream]\nurl = "mqtt://u:secret@h"', ["upstream.url", "upstream.username"]),
    ('[upstream]\nproxy = "ftp://p:21"', ["upstream.proxy", "ftp://p:21", "socks5://host:1080"]),
    ('[upstream]\nproxy = "socks5://p"', ["upstream.proxy", "'socks5://p'", "http://host:3128"]),
    ('[upstream]\nproxy = "http://[::1:3128"', ["upstream.proxy", "http://host:3128"]),
    ('[upstream]\nproxy = "http://p:x"', ["upstream.proxy", "http://host:3128"]),
    ('[upstream]\nproxy = "http://u:secret@p:3128"', ["upstream.proxy", "proxy_password_file"]),
    ('[upstream]\nproxy_username = "u"', ["upstream.proxy", "missing", "socks5://host:1080"]),
    ('[upstream]\nproxy = "http://p:1"\nproxy_username = "u"',
     ["upstream.proxy_username", "proxy_password_file"]),
    ('[upstream]\nproxy = "http://p:1"\nproxy_username = "a:b"\nproxy_password_file = "/no/such"',
     ["upstream.proxy_password_file", "no such file"]),
    ('[broker]\nurl = "mqtt://b"\nproxy = "p:1"', ["broker.proxy", "'p:1'"]),
    ('[upstream]\nprotocol = "4"', ["upstream.protocol", "'4'", "'3.1.1', '5'"]),
    ("[upstream]\ninflight = -1", ["upstream.inflight", "-1", "at least"]),
    ("[upstream]\ninflight = 20001", ["upstream.inflight", "20001", "at most 20000"]),
    ("[upstream]\nkeepalive_s = 4", ["upstream.keepalive_s", "at least 5"]),
    ("[upstream]\nkeepalive_s = 65536", ["upstream.keepalive_s", "at most 65535"]),
    ("[upstream]\nack_timeout_s = 0", ["upstream.ack_timeout_s", "at least 1"]),
    ('[upstream]\ntopic_prefix = "a/#"', ["upstream.topic_prefix", "'a/#'"]),
    ('[upstream]\npassword_file = "/no/such"', ["upstream.password_file", "/no/such"]),
    ('[upstream]\nca_file = "/no/such"', ["upstream.ca_file", "/no/such", "no such file"]),
    ("[[route]]\nupgrade = 3", ["route[0].upgrade", "3", "0, 1, 2"]),
    ('[[route]]\n[[route]]\nfull = "drop"', ["route[1].full", "'drop'", "'drop-oldest'"]),
    ('[[route]]\nfilter = "a/#/b"', ["route[0].filter", "a/#/b"]),
    ('[[route]]\nto = "a/#"', ["route[0].to", "'a/#'", "{topic}"]),
    ('[[route]]\nto = "x/{name}/{topic}"', ["route[0].to", "{name}: only {topic}"]),
    ("[[route]]\nkeep_s = -1", ["route[0].keep_s", "-1", "at least 0"]),
    ("[[route]]\nfoo = 1", ["route[0].foo", "no such setting"]),
    ("[listener", ["not TOML"]),
])
def test_mistake_is_one_line_that_names_file_key_value_and_what_is_right(
        path: Path, text: str, parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(path, text)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    for part in parts:
        assert part in message
    assert "secret" not in message


def test_missing_file_is_one_line(path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load(path)


@pytest.mark.parametrize(("size", "expected"), [
    ("64 KiB", 65_536), ("1GiB", 2**30), ("1.5 M", 1_572_864), ("100000", 100_000),
    ("2 gib", 2**31)])
def test_sizes(path: Path, size: str, expected: int) -> None:
    assert loaded(path, f'[outbox]\nmax_size = "{size}"').outbox.max_bytes() == expected


@pytest.mark.parametrize(("url", "host", "port", "tls", "websocket"), [
    ("mqtt://h", "h", 1883, False, False), ("mqtts://h", "h", 8883, True, False),
    ("ws://h", "h", 8083, False, True), ("wss://h", "h", 8084, True, True),
    ("mqtts://h:9", "h", 9, True, False),
    ("ws://h/a%20b", "h", 8083, False, True), ("wss://[::1]:5", "::1", 5, True, True)])
def test_url_says_how_to_connect(path: Path, url: str, host: str, port: int, tls: bool,
                                 websocket: bool) -> None:
    upstream = loaded(path, f'[upstream]\nurl = "{url}"').upstream
    assert (upstream.host, upstream.port, upstream.tls, upstream.websocket) == (
        host, port, tls, websocket)


@pytest.mark.parametrize("key", ["password_file", "ca_file"])
def test_systemd_credential_is_the_service_s_alone_and_nobody_else_stumbles(
        path: Path, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    path.write_text(f'[upstream]\n{key} = "credential:up"\n[outbox]\npath = "/var/x.db"\n')
    with pytest.raises(ConfigError, match="add LoadCredential=up:FILE to the unit"):
        load(path)
    assert getattr(load(path, running=False).upstream, key) == "credential:up"
    assert outbox_of(path) == Path("/var/x.db")
    (path.parent / "up").touch()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(path.parent))
    assert getattr(load(path).upstream, key) == str(path.parent / "up")


def test_commands_ask_for_no_file_that_only_the_service_may_see(path: Path) -> None:
    path.write_text('[upstream]\npassword_file = "/no/such"\n')
    with pytest.raises(ConfigError, match="no such file"):
        load(path, running=False)
    assert outbox_of(path) == path.parent / "outbox.db"


def test_proxy_is_read_with_its_password(path: Path) -> None:
    (path.parent / "word").write_text("secret\n")
    upstream = loaded(path, '[upstream]\nproxy = "socks5://[::1]:1080"\nproxy_username = "u"\n'
                      'proxy_password_file = "word"').upstream
    assert upstream.through() == ("socks5", "::1", 1080, "u", "secret")
    assert "secret" not in repr(upstream.through())


def test_ipv6_and_names_can_be_listened_on(path: Path) -> None:
    assert loaded(path, '[listener]\nlisten = "[::1]:1883"').listener.address() == ("::1", 1883)


@pytest.mark.parametrize(("text", "key"), [
    ("", "upstream.url"),
    ('[listener]\nallow_anonymous = true\nlisten = "0.0.0.0:1884"\n'
     '[upstream]\nurl = "mqtt://localhost:1884"', "upstream.url"),
    ('[listener]\nallow_anonymous = true\nlisten = "10.0.0.5:1883"\n'
     '[upstream]\nurl = "mqtt://10.0.0.5"', "upstream.url"),
    ('[listener]\nallow_anonymous = true\ntls_listen = "[::]:8883"\ncert_file = "c"\n'
     'key_file = "c"\n'
     '[upstream]\nurl = "mqtts://127.0.0.1"', "upstream.url"),
    ('[upstream]\nurl = "mqtt://b"\n[broker]\nurl = "mqtt://127.0.0.1:1883"', "broker.url"),
])
def test_gateway_that_would_send_to_itself_is_refused(path: Path, text: str, key: str) -> None:
    (path.parent / "c").touch()
    with pytest.raises(ConfigError, match="is this gateway itself") as caught:
        refuse_loop(loaded(path, text), path)
    assert f": {key}: " in str(caught.value)


@pytest.mark.parametrize("text", [
    '[upstream]\nurl = "mqtt://127.0.0.1:1884"',
    '[upstream]\nurl = "mqtt://broker"',
    '[listener]\nallow_anonymous = true\nlisten = "10.0.0.5:1883"\n'
    '[upstream]\nurl = "mqtt://127.0.0.1"',
    '[listener]\nlisten = "off"\n[broker]\nurl = "mqtt://b"',
])
def test_broker_beside_the_gateway_is_not_itself(path: Path, text: str) -> None:
    refuse_loop(loaded(path, text), path)
