"""TLS and mutual TLS towards devices; the small authority; what the config lets stand open."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway import certs
from gateway.cli import cli
from gateway.config import load
from gateway.credentials import CERTIFICATE, REVOKED, Credential, hash_password, parse, render
from gateway.errors import CertificateError, ConfigError
from tools.gateway_thread import GatewayThread, Make
from tools.ports import HOST, free_port
from tools.raw_client import RawClient, connect, publish
from tools.waiting import wait_until


@pytest.fixture(scope="module")
def ca(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An authority, a server, devices, an expired one, and one of somebody else's authority."""
    folder = tmp_path_factory.mktemp("ca")
    certs.make_ca(folder, "Test CA")
    certs.issue(folder, "server", "gw", [HOST, "localhost"], 30)
    certs.issue(folder, "g1", "g1", [], 30)
    certs.issue(folder, "g2", "g2", [], 30)
    certs.issue(folder, "expired", "g1", [], -1)
    other = tmp_path_factory.mktemp("other")
    certs.make_ca(other, "Other CA")
    certs.issue(other, "g1", "g1", [], 30).rename(folder / "foreign.crt")
    (other / "g1.key").rename(folder / "foreign.key")
    return folder


@pytest.fixture
def gateway(make: Make, ca: Path, tmp_path: Path) -> GatewayThread:
    folder = tmp_path / "gw"
    folder.mkdir()
    (folder / "credentials").write_text(render({
        "g1": Credential("g1", CERTIFICATE), "g2": Credential("g2", REVOKED)}))
    return make(free_port(), outbox="commit_ms = 0", listener=(
        f'tls_listen = "{HOST}:0"\ncert_file = "{ca}/server.crt"\nkey_file = "{ca}/server.key"\n'
        f'client_ca_file = "{ca}/ca.crt"\ncredentials = "credentials"'))


@contextmanager
def dial(gateway: GatewayThread, ca: Path, name: str | None) -> Iterator[RawClient]:
    assert gateway.bridge is not None
    context = ssl.create_default_context(cafile=ca / "ca.crt")
    if name is not None:
        context.load_cert_chain(ca / f"{name}.crt", ca / f"{name}.key")
    with RawClient(gateway.bridge.listener.tls_port) as client:
        client.sock = context.wrap_socket(client.sock, server_hostname=HOST)
        yield client


def test_certificate_is_the_login(gateway: GatewayThread, ca: Path) -> None:
    with dial(gateway, ca, "g1") as client:
        client.send(connect("g1") + publish("tidegate/g1/up", b"x" * 100_000, 1, 3))
        assert client.read() == (0x20, b"\0\0")
        assert client.read() == (0x40, b"\0\3")
        client.send(publish("tidegate/g2/up", b"x", 1, 4))
        assert client.closed()


def test_certificate_of_a_revoked_device_is_refused(gateway: GatewayThread, ca: Path) -> None:
    with dial(gateway, ca, "g2") as client:
        client.send(connect("g2"))
        assert client.read() == (0x20, b"\0\4")


def test_device_that_leaves_while_the_outbox_is_full_does_not_stay(
        make: Make, ca: Path) -> None:
    gateway = make(free_port(), outbox='commit_ms = 0\nmax_size = "64 KiB"', listener=(
        f'tls_listen = "{HOST}:0"\ncert_file = "{ca}/server.crt"\nkey_file = "{ca}/server.key"'))
    with dial(gateway, ca, None) as client:
        client.send(connect("g1") + b"".join(
            publish("t", bytes(9000), 1, mid) for mid in range(1, 101)))  # more than TLS buffers
        client.read()
        gateway.wait_for("connected_devices", 1)
        bridge = gateway.bridge
        assert bridge is not None
        wait_until(lambda: bridge.counts["no_room"] > 0)
    gateway.wait_for("connected_devices", 0)


@pytest.mark.parametrize(("name", "reason"), [
    ("expired", "certificate has expired"), ("foreign", "self-signed|unable to get|signature"),
    (None, "PEER_DID_NOT_RETURN_A_CERTIFICATE")])
def test_certificate_that_is_not_right_is_refused_and_counted(
        gateway: GatewayThread, ca: Path, name: str | None, reason: str) -> None:
    try:
        with dial(gateway, ca, name) as client:  # TLS 1.3 tells with the first read
            client.send(connect("g1"))
            assert client.read() is None
    except (ssl.SSLError, ConnectionError):
        pass
    wait_until(lambda: gateway.status()["closed"])
    counted = gateway.status()["closed"]
    assert len(counted) == 1
    assert any(word in next(iter(counted)) for word in reason.split("|")), counted
    assert list(counted.values()) == [1]
    assert gateway.status()["connected_devices"] == 0


def test_plain_bytes_on_the_tls_port_are_counted(gateway: GatewayThread) -> None:
    assert gateway.bridge is not None
    with RawClient(gateway.bridge.listener.tls_port) as client:
        client.send(connect("g1"))
        assert client.closed()
    wait_until(lambda: gateway.status()["closed"])
    assert all(reason.startswith("TLS: ") for reason in gateway.status()["closed"])


def test_password_over_tls_without_client_certificates(make: Make, ca: Path,
                                                       tmp_path: Path) -> None:
    folder = tmp_path / "gw"
    folder.mkdir()
    (folder / "credentials").write_text(render({"g1": Credential("g1", hash_password(b"pw", 10))}))
    gateway = make(free_port(), listener=(
        f'tls_listen = "{HOST}:0"\ncert_file = "{ca}/server.crt"\nkey_file = "{ca}/server.key"\n'
        'credentials = "credentials"'))
    with dial(gateway, ca, None) as client:
        client.send(connect("g1"))
        assert client.read() == (0x20, b"\0\5")


def test_new_certificate_is_used_after_reload(gateway: GatewayThread, ca: Path) -> None:
    def serial() -> object:
        with dial(gateway, ca, "g1") as client:
            assert isinstance(client.sock, ssl.SSLSocket)
            return (client.sock.getpeercert() or {})["serialNumber"]

    before = serial()
    certs.issue(ca, "server", "gw", [HOST, "localhost"], 30, replace=True)
    assert gateway.bridge is not None
    gateway.bridge.listener.reload_tls()
    assert serial() != before


def test_authority_leaves_what_is_there_alone(ca: Path) -> None:
    key = (ca / "ca.key").read_bytes()
    with pytest.raises(CertificateError, match="left alone"):
        certs.make_ca(ca, "again")
    with pytest.raises(CertificateError, match="left alone"):
        certs.issue(ca, "g1", "g1", [], 1)
    assert (ca / "ca.key").read_bytes() == key
    assert (ca / "ca.key").stat().st_mode & 0o077 == 0


def test_keys_are_for_their_owner_and_the_server_s_for_its_group_as_it_was_before(
        tmp_path: Path) -> None:
    def modes() -> dict[str, int]:
        return {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}

    certs.make_ca(tmp_path, "CA")
    certs.issue(tmp_path, "server", "gw", [HOST], 30)
    certs.issue(tmp_path, "g1", "g1", [], 30)
    assert modes() == {"ca.key": 0o600, "ca.crt": 0o644, "server.key": 0o640,
                       "server.crt": 0o644, "g1.key": 0o600, "g1.crt": 0o644}
    (tmp_path / "server.key").chmod(0o440)
    certs.issue(tmp_path, "server", "gw", [HOST], 30, replace=True)
    assert modes()["server.key"] == 0o440
    assert len(modes()) == 6


@pytest.mark.parametrize(("text", "key"), [
    ('listen = "0.0.0.0:1883"', "listener.listen"),
    ('listen = "192.168.1.4:1883"', "listener.listen"),
    ('listen = "[::]:1883"', "listener.listen"),
    ('tls_listen = "0.0.0.0:8883"', "listener.tls_listen"),
    ('tls_listen = "127.0.0.1:8883"', "listener.cert_file"),
    ('tls_listen = "8883"', "listener.tls_listen"),
    ('credentials = "none"', "listener.credentials"),
    ('[http]\nlisten = "0.0.0.0:9100"', "http.listen"),
    ('[[allow]]\nwho = "a"', "allow"),
    ('[upstream]\npassword_file = "credential:x"', "upstream.password_file"),
    ("[panel]\nled = 40", "panel.led"), ("[panel]\nled = 4\nbutton = 4", "panel.button"),
    ("[panel]\nhold_s = 0", "panel.hold_s")])
def test_config_that_stands_open_or_cannot_be_is_refused(tmp_path: Path, text: str,
                                                         key: str) -> None:
    file = tmp_path / "t.toml"
    file.write_text(text if text.startswith("[") else f"[listener]\n{text}")
    with pytest.raises(ConfigError, match=rf"t.toml: {key}: ") as caught:
        load(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [
    'listen = "0.0.0.0:1883"\nallow_anonymous = true', 'listen = "localhost:1883"',
    'listen = "0.0.0.0:1883"\ncredentials = "c"'])
def test_config_that_says_how_it_is_meant_is_taken(tmp_path: Path, text: str) -> None:
    (tmp_path / "c").touch()
    file = tmp_path / "t.toml"
    file.write_text(f"[listener]\n{text}")
    load(file)


def test_secret_comes_from_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "up").write_text("secret\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    file = tmp_path / "t.toml"
    file.write_text('[upstream]\nusername = "u"\npassword_file = "credential:up"')
    assert load(file).upstream.password_text() == "secret"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "t.toml"
    file.write_text('[listener]\ncredentials = "credentials"\n[upstream]\nurl = "mqtt://b.example"\n')
    (tmp_path / "credentials").touch(mode=0o640)
    return file


def run(config: Path, *args: str, given: str | None = None) -> str:
    done = CliRunner().invoke(cli, ["device", args[0], "-c", str(config), *args[1:]], input=given,
                              catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_first_device_makes_the_file_for_those_who_may_read_the_config(config: Path) -> None:
    file = config.with_name("credentials")
    file.unlink()
    done = CliRunner().invoke(cli, ["run", "-c", str(config), "--check"])
    assert "device add" in str(done.exception)
    config.chmod(0o644)
    assert run(config, "add", "g1").strip()
    assert (file.stat().st_mode & 0o777, file.stat().st_uid) == (0o640, config.stat().st_uid)
    assert CliRunner().invoke(cli, ["run", "-c", str(config), "--check"]).exit_code == 0


def test_device_add_list_rotate_revoke(config: Path) -> None:
    file = config.with_name("credentials")
    password = run(config, "add", "g1").strip()
    run(config, "add", "--certificate", "g2")
    run(config, "add", "--password-stdin", "g3", given="typed by hand\n")
    first = parse(file.read_text(), "f")["g1"].hash
    assert password not in file.read_text()
    assert run(config, "rotate", "g1").strip() != password
    assert parse(file.read_text(), "f")["g1"].hash != first
    run(config, "revoke", "g1")
    listed = run(config, "list").splitlines()
    assert [line.split()[:2] for line in listed] == [
        ["g1", "revoked"], ["g2", "certificate"], ["g3", "password"]]
    assert file.stat().st_mode & 0o777 == 0o640
    assert [p.name for p in config.parent.iterdir() if p.name.startswith(".")] == []


@pytest.mark.parametrize("args", [("add", "a b"), ("add", "g1"), ("revoke", "g9"),
                                  ("rotate", "g2")])
def test_device_command_that_makes_no_sense_changes_nothing(
        config: Path, args: tuple[str, str]) -> None:
    run(config, "add", "g1")
    run(config, "add", "g2", "--certificate")
    before = config.with_name("credentials").read_text()
    done = CliRunner().invoke(cli, ["device", args[0], "-c", str(config), args[1]])
    assert done.exit_code != 0
    assert config.with_name("credentials").read_text() == before


def test_certs_command_makes_what_a_gateway_needs(tmp_path: Path) -> None:
    for args in (["ca"], ["server", HOST], ["device", "g1"]):
        done = CliRunner().invoke(cli, ["certs", args[0], "-d", str(tmp_path), *args[1:]],
                                  catch_exceptions=False)
        assert done.exit_code == 0, done.output
    assert {p.name for p in tmp_path.iterdir()} == {
        f"{n}.{s}" for n in ("ca", "server", "g1") for s in ("crt", "key")}
