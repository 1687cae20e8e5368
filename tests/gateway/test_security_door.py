"""Logging in over the wire: who is let in, what they may do, and what becomes of the others."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.credentials import CERTIFICATE, REVOKED, Credential, hash_password, render
from tools.gateway_thread import GatewayThread, Make
from tools.ports import free_port
from tools.raw_client import RawClient, packet, publish, text
from tools.waiting import wait_until

PING, PONG = b"\xc0\x00", (0xD0, b"")
RULES = '[[allow]]\nwho = "dash"\nsubscribe = ["tidegate/#"]\n'
HASHES = {name: hash_password(f"pw-{name}".encode(), 10) for name in ("g1", "g2", "dash")}


def login(name: str | None, password: str | None = None, *, client_id: str = "",
          clean: bool = True, will: str | None = None) -> bytes:
    """A CONNECT with a user name; the password is `pw-<name>` unless said otherwise."""
    flags, rest = clean << 1, b""
    if will is not None:
        flags |= 4
        rest = text(will) + text("gone")
    if name is not None:
        flags |= 0xC0
        rest += text(name) + text(f"pw-{name}" if password is None else password)
    return packet(0x10, text("MQTT") + bytes([4, flags]) + struct.pack(">H", 0)
                  + text(client_id or name or "") + rest)


def code(client: RawClient, data: bytes) -> int:
    client.send(data)
    answer = client.read()
    assert answer is not None
    assert answer[0] == 0x20
    return answer[1][1]


def write(file: Path, **hashes: str) -> None:
    part = file.with_name("part")
    part.write_text(render({n: Credential(n, h) for n, h in hashes.items()}))
    part.replace(file)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "gw" / "credentials"
    path.parent.mkdir()
    write(path, **HASHES, old=REVOKED, cert=CERTIFICATE)
    return path


@pytest.fixture
def gateway(make: Make, file: Path) -> GatewayThread:
    return make(free_port(), listener='credentials = "credentials"', outbox="commit_ms = 0",
                routes=RULES)


@pytest.fixture
def bystander(gateway: GatewayThread) -> Iterator[RawClient]:
    """Somebody who is in: nothing that others do may cost them anything."""
    with RawClient(gateway.port) as client:
        assert code(client, login("g2")) == 0
        yield client
        client.send(publish("tidegate/g2/x", b"x", 1, 1) + PING)
        assert {client.read(), client.read()} == {(0x40, b"\x00\x01"), PONG}


def closed_for(gateway: GatewayThread, reason: str) -> int:
    return int(gateway.status()["closed"].get(reason, 0))


@pytest.mark.parametrize(("data", "expected", "reason"), [
    (login("g1", "wrong"), 4, "bad credentials"),
    (login("g1", "pw-g2"), 4, "bad credentials"),
    (login("g1", ""), 4, "bad credentials"),
    (login("nobody"), 4, "bad credentials"),
    (login("old"), 4, "bad credentials"),
    (login("old", "revoked"), 4, "bad credentials"),
    (login("cert", "certificate"), 4, "bad credentials"),
    (login("g1", "x" * 1000), 4, "bad credentials"),
    (login(None, client_id="g1"), 5, "not authorized"),
    (login("g1", will="tidegate/g2/status"), 5, "not authorized")])
def test_login_that_is_not_right_is_refused_and_counted(
        gateway: GatewayThread, bystander: RawClient, data: bytes, expected: int,
        reason: str) -> None:
    with RawClient(gateway.port) as client:
        assert code(client, data) == expected
        assert client.closed()
    assert closed_for(gateway, reason) == 1
    assert gateway.status()["connected_devices"] == 1


def test_device_publishes_and_subscribes_its_own(gateway: GatewayThread) -> None:
    with RawClient(gateway.port) as device, RawClient(gateway.port) as dash:
        assert code(dash, login("dash", client_id="any id")) == 0
        dash.send(packet(0x82, b"\0\1" + text("tidegate/+/up") + b"\0"))
        assert dash.read() == (0x90, b"\0\1\0")
        assert code(device, login("g1")) == 0
        device.send(packet(0x82, b"\0\1" + text("tidegate/g1/down/#") + b"\0"))
        assert device.read() == (0x90, b"\0\1\0")
        device.send(publish("tidegate/g1/up", b"hello", 1, 2))
        assert device.read() == (0x40, b"\0\2")
        assert dash.read() == (0x30, text("tidegate/g1/up") + b"hello")


@pytest.mark.parametrize("data", [
    publish("tidegate/g2/up", b"forged", 1, 2), publish("alarm", b"forged", 0),
    packet(0x82, b"\0\2" + text("tidegate/g2/down/#") + b"\0"),
    packet(0x82, b"\0\2" + text("tidegate/g1/#") + b"\0" + text("#") + b"\1")])
def test_topic_not_its_own_closes_the_connection_after_what_was_its_own(
        gateway: GatewayThread, bystander: RawClient, data: bytes) -> None:
    with RawClient(gateway.port) as client:
        assert code(client, login("g1")) == 0
        client.send(publish("tidegate/g1/up", b"fine", 1, 1) + data
                    + publish("tidegate/g1/up", b"late", 1, 3))
        assert client.closed()
    assert closed_for(gateway, "topic not its own") == 1
    gateway.wait_for("depth", 1)
    assert gateway.status()["counts"]["received"] == 1


def test_same_identifier_under_another_name_takes_nobody_over(
        gateway: GatewayThread, bystander: RawClient) -> None:
    with RawClient(gateway.port) as thief:
        assert code(thief, login("g1", client_id="g2")) == 0
        thief.send(PING)
        assert thief.read() == PONG


def test_what_comes_with_connect_counts_once_it_is_let_in(gateway: GatewayThread) -> None:
    with RawClient(gateway.port) as client:
        client.send(login("g1") + PING + publish("tidegate/g1/x", b"1", 1, 7) + b"\xe0\x00")
        assert client.read() == (0x20, b"\0\0")
        assert client.read() == PONG
    gateway.wait_for("depth", 1)


def test_what_comes_with_a_wrong_connect_counts_for_nothing(
        gateway: GatewayThread, bystander: RawClient) -> None:
    with RawClient(gateway.port) as client:
        client.send(login("g1", "wrong") + publish("tidegate/g1/x", b"1", 1, 7) + b"\xe0\x00")
        assert client.read() == (0x20, b"\0\4")
        assert client.closed()
    assert "received" not in gateway.status()["counts"]


def test_failures_wait_longer_and_a_known_password_does_not_wait(
        gateway: GatewayThread, bystander: RawClient) -> None:
    took = []
    for number in range(3):
        began = time.monotonic()
        with RawClient(gateway.port) as client:
            assert code(client, login("g1", f"guess {number}")) == 4
        took.append(time.monotonic() - began)
    assert took[0] > 0.2
    assert took[2] > took[0] + 0.5
    began = time.monotonic()
    with RawClient(gateway.port) as client:
        assert code(client, login("g2", client_id="again")) == 0
    assert time.monotonic() - began < 0.2


def test_address_that_failed_gets_few_tries_at_once(
        gateway: GatewayThread, bystander: RawClient) -> None:
    with RawClient(gateway.port) as client:
        assert code(client, login("g1", "wrong")) == 4
    clients = [RawClient(gateway.port) for _ in range(20)]
    for number, client in enumerate(clients):
        client.send(login("g1", f"guess {number}"))
    wait_until(lambda: closed_for(gateway, "too many logins") == 12)
    assert clients[-1].read() == (0x20, b"\0\3")
    for client in clients:
        client.close()


def test_changed_file_sends_away_those_it_concerns_and_nobody_else(
        gateway: GatewayThread, bystander: RawClient, file: Path) -> None:
    with RawClient(gateway.port) as revoked, RawClient(gateway.port) as rotated:
        assert code(revoked, login("g1")) == 0
        assert code(rotated, login("dash")) == 0
        write(file, g1=REVOKED, g2=HASHES["g2"], dash=hash_password(b"new", 10))
        assert revoked.closed()
        assert rotated.closed()
    assert closed_for(gateway, "revoked") == 2
    with RawClient(gateway.port) as client:
        assert code(client, login("dash", "new")) == 0
    with RawClient(gateway.port) as client:
        assert code(client, login("g1")) == 4


def test_broken_file_leaves_the_old_one_in_force(
        gateway: GatewayThread, bystander: RawClient, file: Path,
        caplog: pytest.LogCaptureFixture) -> None:
    file.write_text("nonsense")
    deadline = time.monotonic() + 10
    while "not reloaded" not in caplog.text:
        assert time.monotonic() < deadline
        bystander.send(PING)
        assert bystander.read() == PONG
    with RawClient(gateway.port) as client:
        assert code(client, login("g1")) == 0


def test_anonymous_has_only_what_the_rules_say(make: Make, file: Path) -> None:
    gateway = make(free_port(), listener='credentials = "credentials"\nallow_anonymous = true',
                   routes='[[allow]]\nwho = "anonymous"\npublish = ["open/#"]\n',
                   outbox="commit_ms = 0")
    with RawClient(gateway.port) as client:
        client.open("g1")
        client.send(publish("open/x", b"x", 1, 1))
        assert client.read() == (0x40, b"\0\1")
        client.send(publish("tidegate/g1/up", b"x", 1, 2))
        assert client.closed()


def test_two_hundred_reconnects_a_second_do_not_starve_who_is_in(
        gateway: GatewayThread, bystander: RawClient) -> None:
    with RawClient(gateway.port) as first:
        assert code(first, login("g1")) == 0
    worst, began, done = 0.0, time.monotonic(), 0
    for number in range(600):
        with RawClient(gateway.port) as client:
            wrong = number % 3 == 2
            client.send(login("g1", "wrong" if wrong else None))
            if not wrong:
                assert client.read() == (0x20, b"\0\0")
        done += 1
        if number % 10 == 0:
            sent = time.monotonic()
            bystander.send(publish("tidegate/g2/x", b"y", 1, 2))
            assert bystander.read() == (0x40, b"\0\2")
            worst = max(worst, time.monotonic() - sent)
    assert done / (time.monotonic() - began) > 200
    assert worst < 0.5


def test_device_that_was_just_added_is_let_in_at_once(gateway: GatewayThread, file: Path) -> None:
    added = dict(HASHES)
    for name in ("new1", "new2", "new3"):  # quicker than the file is looked at by itself
        added[name] = hash_password(f"pw-{name}".encode(), 10)
        write(file, **added)
        with RawClient(gateway.port) as client:
            assert code(client, login(name)) == 0
