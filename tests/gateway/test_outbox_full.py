"""The outbox at its cap: what each policy takes, drops and keeps, and that room is used again."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

import gateway.bridge
from gateway import commit, wire
from gateway.errors import OutboxError
from gateway.journal import PAGE, RESERVE_BYTES
from gateway.outbox import Outbox, Record
from tools.fake_broker import FakeBroker
from tools.gateway_thread import GatewayThread, Make
from tools.judge import Subscriber
from tools.mosquitto import Mosquitto
from tools.ports import free_port
from tools.raw_client import RawClient, packet, publish, text
from tools.waiting import wait_until

SMALL = 'max_size = "64 KiB"\ncommit_ms = 0'
ROUTES = """
[[route]]
filter = "new/#"
full = "latest-only"
[[route]]
filter = "old/#"
full = "drop-oldest"
[[route]]
filter = "alarm/#"
urgent = true
[[route]]
filter = "fresh/#"
keep_s = 0.5
[[route]]
"""


@pytest.fixture
def late_upstream(tmp_path: Path) -> Iterator[Mosquitto]:
    """Is not there before the test starts it."""
    broker = Mosquitto(tmp_path / "late", port=free_port(), persistence=False)
    yield broker
    broker.stop()


def acks(client: RawClient, count: int) -> list[int]:
    found = [client.read() for _ in range(count)]
    return [int.from_bytes(answer[1][:2], "big") for answer in found if answer]


def fill(client: RawClient, topic: str, size: int = 900) -> int:
    """Publish until no more is acknowledged; returns how many were."""
    mid = 0
    while True:
        mid += 1
        client.send(publish(topic, b"%05d" % mid + bytes(size), 1, mid))
        try:
            client.read(0.5)
        except TimeoutError:
            return mid - 1


def test_reject_acknowledges_no_more_until_there_is_room(
        make: Make, late_upstream: Mosquitto) -> None:
    gateway = make(late_upstream.port, outbox=SMALL)
    with RawClient(gateway.port) as client, RawClient(gateway.port) as other:
        client.open("filler", keepalive_s=1)
        count = fill(client, "a/b")
        assert 30 < count < 70
        other.open("other")
        other.send(publish("c", bytes(900), 1, 1) + b"\xc0\x00")
        assert other.read() == (0xD0, b"")  # it is alive, but not acknowledged
        assert gateway.status()["bytes"] <= 65_536
        late_upstream.start()
        with Subscriber(late_upstream.port, client_id="full") as judge:
            assert client.read() == (0x40, (count + 1).to_bytes(2, "big"))
            assert other.read() == (0x40, b"\x00\x01")
            wait_until(lambda: sum(a.topic == "c" for a in judge.arrivals) == 1)
        gateway.wait_for("depth", 0)
        gateway.wait_for("bytes", 0)


@pytest.mark.parametrize("how", ["closes", "resets"])
def test_clients_that_leave_while_the_outbox_is_full_do_not_stay(make: Make, how: str) -> None:
    gateway = make(free_port(), outbox=SMALL, listener="max_connections = 4")
    with RawClient(gateway.port) as filler:
        filler.open("filler")
        fill(filler, "a/b")
        for number in range(9):  # one after the other: more than may be there at once
            with RawClient(gateway.port) as client:
                client.open(f"c{number}")
                client.send(publish("c", bytes(900), 1, 1) + b"\xc0\x00")
                assert client.read() == (0xD0, b"")
                if how == "resets":
                    client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                                           struct.pack("ii", 1, 0))
            if number % 3 == 2:
                gateway.wait_for("connected_devices", 1)


@pytest.mark.parametrize("polite", [False, True])
def test_goodbye_behind_what_is_held_still_counts(make: Make, polite: bool) -> None:
    gateway = make(free_port(), outbox=SMALL)
    with RawClient(gateway.port) as watcher, RawClient(gateway.port) as client:
        watcher.open("watcher")
        watcher.send(packet(0x82, b"\0\1" + text("will/#") + b"\0"))
        watcher.read()
        client.open("client", will=("will/client", b"gone", 0, False))
        fill(client, "a/b")
        client.send(publish("a/b", bytes(900)) + b"\xe0\x00" * polite)  # it is not read
        client.close()
        gateway.wait_for("connected_devices", 1)
        watcher.send(b"\xc0\x00")
        heard = watcher.read()
        assert heard == ((0xD0, b"") if polite else (0x30, text("will/client") + b"gone"))


def statuses(judge: Subscriber) -> list[bytes]:
    return [a.payload for a in judge.arrivals if a.topic == "tidegate/d/status"]


def die_while_full(gateway: GatewayThread) -> None:
    """Let a client come, say that it is online, and end without a goodbye in a full outbox."""
    with RawClient(gateway.port) as filler, RawClient(gateway.port) as watcher, \
            RawClient(gateway.port) as doomed:
        watcher.open("watcher")
        watcher.send(packet(0x82, b"\0\1" + text("tidegate/+/status") + b"\0"))
        watcher.read()
        doomed.open("d", will=("tidegate/d/status", b"offline", 1, True))
        doomed.send(publish("tidegate/d/status", b"online", 1, 1, retain=True))
        doomed.read()
        assert watcher.read() == (0x30, text("tidegate/d/status") + b"online")
        filler.open("filler")
        fill(filler, "a/b")
        with RawClient(gateway.port) as small:
            small.open("small")
            fill(small, "a/b", 1)
        doomed.close()
        assert watcher.read() == (0x30, text("tidegate/d/status") + b"offline")
        watcher.send(packet(0x82, b"\0\2" + text("tidegate/d/#") + b"\0"))
        assert watcher.read() == (0x90, b"\0\2\0")
        assert watcher.read() == (0x31, text("tidegate/d/status") + b"offline")
        assert gateway.status()["bytes"] <= 65_536  # the cap holds


@pytest.mark.parametrize("restart", [False, True])
def test_will_is_heard_here_at_once_and_upstream_when_there_is_room(
        make: Make, late_upstream: Mosquitto, restart: bool) -> None:
    gateway = make(late_upstream.port, outbox=SMALL, listener="will_grace_s = 0.1")
    die_while_full(gateway)
    if restart:
        gateway.stop()
        gateway = make(late_upstream.port, outbox=SMALL, listener="will_grace_s = 0.1")
    late_upstream.start()
    with Subscriber(late_upstream.port, client_id="wills") as judge:
        wait_until(lambda: b"offline" in statuses(judge))
        assert statuses(judge) == [b"online", b"offline"]
        gateway.wait_for("depth", 0)
    gateway.stop()
    again = make(late_upstream.port, outbox=SMALL, listener="will_grace_s = 0.1")
    again.wait_connected()
    with Subscriber(late_upstream.port, ["tidegate/d/#"], client_id="once") as judge, \
            RawClient(again.port) as client:
        client.open("after")
        wait_until(lambda: statuses(judge) == [b"offline"])  # retained
        client.send(publish("tidegate/d/end", b"", 1, 1))
        judge.wait_for_message("tidegate/d/end", b"")
        assert statuses(judge) == [b"offline"]


def test_client_that_is_back_before_there_is_room_takes_its_will_along(
        make: Make, late_upstream: Mosquitto) -> None:
    gateway = make(late_upstream.port, outbox=SMALL)
    die_while_full(gateway)
    with RawClient(gateway.port) as client:
        client.open("d")
        client.send(publish("tidegate/d/status", b"back", 1, 1, retain=True))
        late_upstream.start()
        with Subscriber(late_upstream.port, client_id="back") as judge:
            wait_until(lambda: b"back" in statuses(judge))
            gateway.wait_for("depth", 0)
            assert statuses(judge) == [b"online", b"back"]


def test_drop_oldest_keeps_the_newest_and_counts_the_rest(
        make: Make, late_upstream: Mosquitto) -> None:
    gateway = make(late_upstream.port, outbox=SMALL, routes=ROUTES)
    with RawClient(gateway.port) as client:
        client.open("flood")
        for mid in range(1, 201):
            client.send(publish("old/x", b"%05d" % mid + bytes(900), 1, mid))
            assert client.read() == (0x40, mid.to_bytes(2, "big"))

    def accounted() -> bool:
        status = gateway.status()
        return bool(status["depth"] + status["dropped"]["drop-oldest"] == 200)

    wait_until(accounted)  # dropped ones leave with the next commit
    kept = gateway.status()["depth"]
    assert kept > 20
    late_upstream.start()
    with Subscriber(late_upstream.port, client_id="oldest") as judge:
        wait_until(lambda: any(a.payload.startswith(b"00200") for a in judge.arrivals))
        got = [int(a.payload[:5]) for a in judge.arrivals if a.topic == "old/x"]
    assert got == list(range(got[0], 201))
    assert len(got) <= kept
    gateway.wait_for("bytes", 0)


def test_latest_only_keeps_one_value_of_each_topic_at_the_cap(
        make: Make, late_upstream: Mosquitto) -> None:
    gateway = make(late_upstream.port, outbox=SMALL, routes=ROUTES)
    with RawClient(gateway.port) as client, RawClient(gateway.port) as filler:
        client.open("meter")
        client.send(publish("new/a", b"0", 1, 1) + publish("new/b", b"0", 1, 2))
        assert acks(client, 2) == [1, 2]
        filler.open("filler")
        fill(filler, "a/b", 100)
        for mid in range(3, 60):
            client.send(publish(f"new/{'ab'[mid % 2]}", b"%d" % mid, 1, mid))
            assert client.read() == (0x40, mid.to_bytes(2, "big"))
    assert gateway.status()["dropped"]["superseded"] == 57
    late_upstream.start()
    with Subscriber(late_upstream.port, client_id="latest") as judge:
        judge.wait_for_message("new/b", b"59")
        judge.wait_for_message("new/a", b"58")
        gateway.wait_for("depth", 0)
        assert sum(a.topic.startswith("new/") for a in judge.arrivals) == 2
    gateway.wait_for("bytes", 0)


def test_message_is_not_sent_after_its_time(make: Make, late_upstream: Mosquitto) -> None:
    gateway = make(late_upstream.port, outbox="commit_ms = 0", routes=ROUTES)
    with RawClient(gateway.port) as client:
        client.open("c")
        client.send(publish("fresh/x", b"stale", 1, 1) + publish("kept", b"kept", 1, 2))
        assert acks(client, 2) == [1, 2]
        wait_until(lambda: gateway.status()["dropped"].get("expired") == 1)
        late_upstream.start()
        with Subscriber(late_upstream.port, client_id="fresh") as judge:
            gateway.wait_connected()
            client.send(publish("fresh/x", b"new", 1, 3))
            judge.wait_for_message("fresh/x", b"new")
            judge.wait_for_message("kept", b"kept")
            assert not [a for a in judge.arrivals if a.payload == b"stale"]


def test_urgent_message_passes_a_long_backlog(make: Make) -> None:
    with FakeBroker(v5=False) as broker:
        gateway = make(broker.port, outbox="commit_ms = 0", routes=ROUTES,
                       upstream="inflight = 10")
        gateway.wait_connected()
        gateway.wait_for("depth", 0)  # `online` has arrived
        broker.behaviour.reads = False
        total = 9000  # more than the live lane holds
        with RawClient(gateway.port) as client:
            client.open("c")
            client.send(b"".join(publish("t", b"%d" % n) for n in range(total)))
            client.send(publish("alarm/fire", b"fire", 1, 1))
            assert client.read() == (0x40, b"\x00\x01")
        gateway.wait_for("depth", total + 1)
        broker.behaviour.reads = True
        broker.wait_for(b"fire")
        assert len(broker.payloads()) < 100


def test_long_backlog_drains_in_order_after_a_restart(make: Make, upstream: Mosquitto) -> None:
    total = 10_000
    first = make(free_port(), outbox="commit_ms = 0")
    with RawClient(first.port) as client:
        client.open("busy")
        flood = b"".join(publish("backlog", b"%d" % n, 1, n + 1) for n in range(total))
        writer = threading.Thread(target=client.send, args=(flood,))
        writer.start()
        assert acks(client, total) == list(range(1, total + 1))
        writer.join()
    first.stop()
    with Subscriber(upstream.port, ["backlog"], client_id="drain") as judge:
        second = make(upstream.port)
        second.wait_for("depth", 0, 20)
        wait_until(lambda: len(judge.arrivals) == total)
        assert [int(a.payload) for a in judge.arrivals] == list(range(total))
    second.wait_for("bytes", 0)


def test_device_gets_no_acknowledgement_for_a_batch_without_room(make: Make) -> None:
    gateway = make(free_port(), outbox=SMALL)

    def batch(seq: int) -> bytes:
        return publish("tidegate/dev/up", json.dumps({
            "v": 1, "life": "aa", "boot": 1, "seq": seq, "low": 1, "now": 9,
            "recs": [[n, "s", {"text": "x" * 150}] for n in range(20)]}).encode())

    with RawClient(gateway.port) as client:
        client.open("dev")
        client.send(packet(0x82, b"\x00\x01" + text("tidegate/dev/down/#") + b"\x00"))
        assert client.read() == (0x90, b"\x00\x01\x00")
        seq, last = 1, 0
        for seq in islice(range(1, 10_000, 20), 100):
            client.send(batch(seq))
            try:
                found = client.read(0.5)
            except TimeoutError:
                break
            assert found is not None
            last = json.loads(found[1][found[1].index(b"{"):])["seq"]
            assert last == seq + 19
        assert 0 < last < seq < 1000
        assert gateway.status()["bytes"] < 65_536 + 10_000
        assert gateway.status()["counts"]["records"] == last


def most_pages(gateway: GatewayThread, count: int) -> None:
    """Let the database grow no further; 1 for as it is."""
    bridge = gateway.bridge
    assert bridge is not None
    gateway.call(lambda: bridge.committer.read(
        lambda: bridge.outbox._db.execute(f"PRAGMA max_page_count={count}").fetchall()))


def test_full_disk_acknowledges_nothing_and_goes_on_when_there_is_room(make: Make) -> None:
    gateway = make(free_port(), outbox="commit_ms = 0")
    with RawClient(gateway.port) as client, RawClient(gateway.port) as other:
        client.open("c")
        other.open("other")
        client.send(publish("t", b"fits", 1, 1))
        assert client.read() == (0x40, b"\x00\x01")
        most_pages(gateway, 1)  # SQLite then takes what it has already, and the journal has an end
        mid = 1
        while gateway.status()["disk"] == "ok":
            mid += 1
            client.send(publish("t", bytes(200_000), 1, mid))
            wait_until(lambda mid=mid: gateway.status()["counts"]["stored"] == mid
                       or gateway.status()["disk"] != "ok")
            if gateway.status()["disk"] == "ok":
                assert acks(client, 1) == [mid]
        assert mid > 10
        other.send(b"\xc0\x00")
        assert other.read() == (0xD0, b"")
        client.send(publish("t", b"more", 1, mid + 1) + b"\xc0\x00")
        assert client.read() == (0xD0, b"")  # before any PUBACK
        most_pages(gateway, 100_000)
        assert acks(client, 2) == [mid, mid + 1]
    gateway.wait_for("disk", "ok")
    assert gateway.status()["depth"] == mid + 1


@pytest.mark.parametrize(("topic", "total"), [("t" * 100, 20_000), ("t" * 4000, 1000)],
                         ids=["many", "long topics"])
def test_empty_messages_are_not_read_for_ever_while_nothing_can_be_written(
        make: Make, monkeypatch: pytest.MonkeyPatch, topic: str, total: int) -> None:
    monkeypatch.setattr(gateway.bridge, "HELD_BYTES", 1_000_000)
    monkeypatch.setattr("gateway.commit.RETRY_S", 0.05)
    inner, full = Outbox.commit, threading.Event()

    def refusing(outbox: Outbox, record: Record) -> None:
        if full.is_set():
            raise OutboxError("the disk is full")
        inner(outbox, record)

    monkeypatch.setattr(Outbox, "commit", refusing)
    made = make(free_port(), outbox="commit_ms = 0")
    assert made.bridge is not None
    counts, committer, listener = made.bridge.counts, made.bridge.committer, made.bridge.listener
    with RawClient(made.port) as client:
        client.open("c")
        full.set()
        writer = threading.Thread(target=client.send,
                                  args=(publish(topic, b"") * total + b"\xc0\x00",))
        writer.start()
        wait_until(lambda: counts["received"] == total
                   or any(conn.paused for conn in list(listener.connections)))
        assert len(committer.batch.insert) < total / 2
        full.clear()
        writer.join()
        assert client.read() == (0xD0, b"")
        made.wait_for("depth", total)


@pytest.mark.parametrize("qos", [1, 2])
def test_full_disk_drains_without_more_room(make: Make, late_upstream: Mosquitto, qos: int,
                                            monkeypatch: pytest.MonkeyPatch) -> None:
    """More than the window and the reserve of the journal are good for, one round each."""
    monkeypatch.setattr(commit, "RETRY_S", 0.05)
    gateway = make(late_upstream.port, outbox="commit_ms = 0", upstream="inflight = 5",
                   routes=f"[[route]]\nupgrade = {qos}\n")
    with RawClient(gateway.port) as client:
        client.open("filler")
        most_pages(gateway, 1)
        count = fill(client, "a/b", 20_000)
        assert count > 5 * RESERVE_BYTES / PAGE
        assert gateway.status()["disk"] != "ok"
        late_upstream.start()
        assert client.read(30) == (0x40, (count + 1).to_bytes(2, "big"))
    gateway.wait_for("depth", 0)
    status = gateway.status()
    assert (status["disk"], status["refused"], status["upstream_connects"]) == ("ok", 0, 1)


def test_what_was_taken_is_acknowledged_though_an_equal_message_was_not(
        make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    gateway = make(free_port(), outbox="commit_ms = 0")
    assert gateway.bridge is not None
    clients, real = gateway.bridge.clients, gateway.bridge.clients.intake
    taken: list[int] = []

    def room_for_two(client_id: str, publishes: list[wire.Publish]) -> int:
        taken.append(real(client_id, publishes if taken else publishes[:2]))
        return taken[-1]

    monkeypatch.setattr(clients, "intake", room_for_two)
    with RawClient(gateway.port) as client:
        client.open("c")
        client.send(publish("t", b"x") + publish("t", b"1", 1, 1) + publish("t", b"x")
                    + publish("t", b"2", 1, 2))
        assert acks(client, 2) == [1, 2]
    assert taken == [2, 2]


def test_will_waits_as_a_message_does_while_much_waits_for_the_disk(make: Make) -> None:
    bridge = (made := make(free_port())).bridge
    assert bridge is not None

    async def take() -> bool:
        bridge.committer.held_bytes = gateway.bridge.HELD_BYTES + 1
        return bridge._take_will("gone", wire.Publish("status", b"", 1, False, False, 0))

    assert made.call(take) is False
