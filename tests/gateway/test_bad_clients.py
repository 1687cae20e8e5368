"""What breaks the rules or a limit is closed, counted, named in the log; all else goes on."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from tools.gateway_thread import GatewayThread, Make
from tools.judge import Subscriber
from tools.mosquitto import Mosquitto, client_command
from tools.ports import free_port
from tools.raw_client import RawClient, connect, packet, publish, text
from tools.waiting import wait_until

PING, PONG = b"\xc0\x00", (0xD0, b"")


@pytest.fixture
def limited(make: Make) -> GatewayThread:
    """A gateway with low limits and no upstream."""
    return make(free_port(), listener=(
        "connect_timeout_s = 0.3\nmax_packet_bytes = 1000\nmax_connections = 4\n"
        "max_unacked_bytes = 2000"), outbox="commit_ms = 0")


@pytest.fixture
def bystander(limited: GatewayThread) -> Iterator[RawClient]:
    """A client that did nothing wrong: its connection must live on, and its messages count."""
    with RawClient(limited.port) as client:
        client.open("bystander")
        yield client
        client.send(publish("fine", b"x", 1, 1) + PING)
        assert {client.read(), client.read()} == {(0x40, b"\x00\x01"), PONG}


def closed_for(gateway: GatewayThread, reason: str) -> int:
    return int(gateway.status()["closed"].get(reason, 0))


@pytest.mark.parametrize(("data", "reason"), [
    (b"\x36\x05\x00\x01a\x00\x01", "malformed"),
    (b"\x30\x03\x00\x01#", "bad topic"),
    (b"\x82\x07\x00\x01\x00\x02a#\x00", "bad filter"),
    (b"\x20\x02\x00\x00", "unexpected"),
    (b"GET / HTTP/1.1\r\n" + b"x" * 99, "malformed"),
    (connect("again"), "second CONNECT"),
    (publish("big", bytes(2000)), "oversized"),
])
def test_client_that_breaks_the_rules_is_closed(limited: GatewayThread, bystander: RawClient,
                                                data: bytes, reason: str) -> None:
    with RawClient(limited.port) as client:
        client.open("bad")
        client.send(data)
        assert client.closed()
    assert closed_for(limited, reason) == 1


@pytest.mark.parametrize(("first", "reason"), [
    (PING, "no CONNECT"), (publish("t", b"x"), "no CONNECT"), (b"\x16\x03\x01\x02\x00\x01" * 9,
                                                              "unexpected")])
def test_first_packet_that_is_no_connect_is_refused(limited: GatewayThread, bystander: RawClient,
                                                    first: bytes, reason: str) -> None:
    with RawClient(limited.port) as client:
        client.send(first)
        assert client.closed()
    assert sum(limited.status()["closed"].values()) == 1


@pytest.mark.parametrize("start", [b"", connect("half")[:7]])
def test_client_that_never_sends_connect_is_closed(limited: GatewayThread, bystander: RawClient,
                                                   start: bytes) -> None:
    with RawClient(limited.port) as client:
        client.send(start)
        assert client.closed()
    assert closed_for(limited, "no CONNECT in time") == 1


@pytest.mark.parametrize(("data", "code"), [
    (connect("c", level=5), 1), (connect("c", level=9), 1), (connect("", clean=False), 2)])
def test_refused_connect_is_told_why(limited: GatewayThread, bystander: RawClient, data: bytes,
                                     code: int) -> None:
    with RawClient(limited.port) as client:
        client.send(data)
        assert client.read() == (0x20, bytes([0, code]))
        assert client.closed()


def test_long_client_identifier_is_refused(make: Make) -> None:
    made = make(free_port())
    with RawClient(made.port) as longest, RawClient(made.port) as longer:
        longest.open("x" * 1024)
        longer.send(connect("x" * 1025))
        assert longer.read() == (0x20, b"\x00\x02")
        assert longer.closed()
    assert closed_for(made, "client identifier") == 1


def test_empty_client_identifier_gets_one_of_ours(limited: GatewayThread,
                                                  bystander: RawClient) -> None:
    with RawClient(limited.port) as one, RawClient(limited.port) as two:
        assert (one.open(""), two.open("")) == (0, 0)
        one.send(PING)
        assert one.read() == PONG


def test_second_client_with_the_same_identifier_takes_over(
        limited: GatewayThread, bystander: RawClient) -> None:
    with RawClient(limited.port) as first, RawClient(limited.port) as second:
        first.open("same")
        second.open("same")
        assert first.closed()
        second.send(publish("t", b"x", 1, 3))
        assert second.read() == (0x40, b"\x00\x03")
    assert closed_for(limited, "taken over") == 1


def test_silent_client_is_closed_after_its_keepalive_and_its_will_fires(
        make: Make, upstream: Mosquitto, judge: Subscriber) -> None:
    gateway = make(upstream.port, name="keepalive")
    with RawClient(gateway.port) as silent, RawClient(gateway.port) as alive:
        alive.open("alive", keepalive_s=1)
        silent.open("silent", keepalive_s=1, will=("silent/will", b"gone", 1, False))
        while closed_for(gateway, "keepalive") == 0:
            alive.send(PING)
            assert alive.read() == PONG
        assert silent.closed()
        judge.wait_for_message("silent/will", b"gone")
        alive.send(PING)
        assert alive.read() == PONG


def test_connections_above_the_limit_are_refused(limited: GatewayThread,
                                                 bystander: RawClient) -> None:
    clients = [RawClient(limited.port) for _ in range(3)]
    for number, client in enumerate(clients):
        client.open(f"c{number}")
    with RawClient(limited.port) as one_more:
        assert one_more.closed()
    assert closed_for(limited, "too many connections") == 1
    for client in clients:
        client.close()
    limited.wait_for("connected_devices", 1)
    with RawClient(limited.port) as now:
        assert now.open("now") == 0


def test_rate_limit_slows_a_client_and_loses_nothing(make: Make) -> None:
    gateway = make(free_port(), listener="max_messages_per_s = 100", outbox="commit_ms = 0")
    with RawClient(gateway.port) as fast, RawClient(gateway.port) as other:
        fast.open("fast")
        other.open("other")
        for mid in range(1, 121):
            fast.send(publish("t", b"x", 1, mid))
            if mid == 110:  # held back by now: what follows is not read at once
                other.send(publish("t", b"x", 1, 1))
                assert other.read() == (0x40, b"\x00\x01")
        assert [fast.read() for _ in range(120)] == [
            (0x40, mid.to_bytes(2, "big")) for mid in range(1, 121)]
        assert gateway.status()["counts"]["received"] == 121


def test_unacknowledged_bytes_stop_the_reading_until_they_are_on_disk(
        limited: GatewayThread, bystander: RawClient) -> None:
    with RawClient(limited.port) as client:
        client.open("eager")
        client.send(b"".join(publish("t", bytes(900), 1, mid) for mid in range(1, 41)))
        assert [client.read() for _ in range(40)] == [
            (0x40, mid.to_bytes(2, "big")) for mid in range(1, 41)]


def test_subscriber_that_does_not_read_is_cut_and_holds_up_nobody(make: Make) -> None:
    gateway = make(free_port(), outbox='max_size = "64 KiB"', routes="[[route]]\nforward = false")
    with RawClient(gateway.port) as lazy, RawClient(gateway.port) as busy:
        lazy.open("lazy")
        lazy.send(packet(0x82, b"\x00\x01" + text("#") + b"\x00"))
        lazy.read()
        busy.open("busy")
        for mid in range(1, 200):
            busy.send(publish("t", bytes(100_000), 1, mid))
            assert busy.read() == (0x40, mid.to_bytes(2, "big"))
            if closed_for(gateway, "slow reader"):
                break
        assert closed_for(gateway, "slow reader") == 1


@pytest.mark.parametrize("sensor", ["a+b", "a/b", "#", ""])
def test_batch_with_a_bad_sensor_name_is_kept_as_it_came(
        gateway: GatewayThread, judge: Subscriber, sensor: str) -> None:
    batch = json.dumps({"v": 1, "life": "aa", "boot": 1, "seq": 1, "low": 1, "now": 5,
                        "recs": [[1, sensor, {"x": 1}]]})
    subprocess.run(client_command("mosquitto_pub", gateway.port, "-t", "tidegate/dev/up", "-m",
                                  batch), check=True, timeout=10)
    judge.wait_for_message("tidegate/dev/up", batch.encode())
    wait_until(lambda: gateway.status()["counts"]["unreadable"] == 1)


def test_batch_nested_too_deep_is_kept_as_it_came_and_disturbs_nothing(
        gateway: GatewayThread, judge: Subscriber) -> None:
    deep = (b'{"v":1,"life":"a","boot":7,"seq":1,"low":1,"now":5,"recs":[[4,"d",{"t":1}]],"x":'
            + b"[" * 5000 + b"]" * 5000 + b"}")
    with RawClient(gateway.port) as client:
        client.open("deep")
        client.send(publish("t", b"before", 1, 1) + publish("tidegate/d/up", deep, 1, 2))
        assert {client.read(), client.read()} == {(0x40, b"\0\1"), (0x40, b"\0\2")}
    judge.wait_for_message("t", b"before")
    judge.wait_for_message("tidegate/d/up", deep)
    gateway.wait_for("depth", 0)
    assert gateway.status()["counts"]["unreadable"] == 1


def test_accounts_follow_what_was_taken_although_the_next_message_fails(
        gateway: GatewayThread, judge: Subscriber, monkeypatch: pytest.MonkeyPatch) -> None:
    assert gateway.bridge is not None

    def broken(*_: object) -> None:
        raise RuntimeError("planted")

    monkeypatch.setattr(gateway.bridge.devices, "take", broken)
    with RawClient(gateway.port) as client:
        client.open("planted")
        client.send(publish("t", b"taken", 1, 1) + publish("tidegate/d/up", b"{}", 1, 2))
        assert client.closed()
    judge.wait_for_message("t", b"taken")
    gateway.wait_for("depth", 0)
