"""The backlog on disk while it is being loaded: dropped and superseded rows are counted once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from itertools import chain

import pytest

import gateway.drain
import gateway.outbox
import gateway.queue
from gateway.outbox import LOAD_BYTES, Outbox
from gateway.queue import LIVE_MOST_BYTES
from tools.fake_broker import Behaviour, FakeBroker
from tools.gateway_thread import Make
from tools.raw_client import RawClient, publish
from tools.waiting import wait_until

LATEST = '[[route]]\nfilter = "new/#"\nfull = "latest-only"\n[[route]]\n'


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeBroker]:
    """Acknowledges all but the first two messages, which are all that the window takes."""
    monkeypatch.setattr(gateway.queue, "LIVE_MOST", 4)
    behaviour = Behaviour(silent_on={b"0", b"1"}, keeps_session=True)
    with FakeBroker(behaviour, v5=False) as broker:
        yield broker


def test_value_in_a_loaded_backlog_is_superseded_without_harm(make: Make,
                                                              stuck: FakeBroker) -> None:
    made = make(stuck.port, outbox="commit_ms = 0", routes=LATEST,
                upstream="inflight = 2\nack_timeout_s = 1")
    stuck.wait_for(b"online")
    made.wait_for("depth", 0)
    assert made.bridge is not None
    queue = made.bridge.queue
    with RawClient(made.port) as client:
        client.open("meter")
        mid = 0

        def send(topic: str, payload: bytes) -> None:
            nonlocal mid
            mid += 1
            client.send(publish(topic, payload, 1, mid))
            assert client.read() == (0x40, mid.to_bytes(2, "big"))

        for number in range(10):
            send("t", b"%d" % number)
        send("new/a", b"first")
        wait_until(lambda: queue.unloaded == 0)  # all of it is in memory, waiting for the window
        send("new/a", b"second")
        stuck.behaviour.silent_on = set()
        made.wait_for("bytes", 0)
        made.wait_for("depth", 0)
    assert list(dict.fromkeys(stuck.payloads())) == [
        *(b"%d" % number for number in range(10)), b"first", b"second"]
    assert (dict(queue.backlog), queue.unloaded, queue.depth) == ({}, 0, 0)


def test_backlog_of_big_messages_is_in_memory_in_part_only(make: Make) -> None:
    total, most_bytes = 200, LIVE_MOST_BYTES + 2 * LOAD_BYTES + 1_000_000
    payloads = [b"%d " % number + bytes(200_000) for number in range(total)]
    with FakeBroker(v5=False) as broker:
        first = make(broker.port, outbox="commit_ms = 0")
        assert first.bridge is not None
        drain, flight = first.bridge.drain, first.bridge.flight
        first.wait_connected()
        first.wait_for("depth", 0)
        broker.behaviour.reads = False
        with RawClient(first.port) as camera:
            camera.open("camera")
            for mid, payload in enumerate(payloads, 1):
                camera.send(publish("picture", payload, 1, mid))
                assert camera.read() == (0x40, mid.to_bytes(2, "big"))
        wait_until(lambda: drain._loading is not None and drain._loading.done()
                   and not drain._wants_more())
        waiting = [*flight.in_flight.values(), *chain(*flight.lanes)]
        assert LOAD_BYTES < sum(len(entry.payload) for entry in waiting) < most_bytes
        first.stop()
        with closing(Outbox(first.bridge.outbox.path)) as outbox:  # no more after a restart
            assert sum(len(entry.payload) for entry in outbox.start().entries) < most_bytes
        broker.behaviour.reads = True
        second = make(broker.port, outbox="commit_ms = 0")
        second.wait_for("bytes", 0, 20)
        assert list(dict.fromkeys(broker.payloads())) == payloads
        assert second.bridge is not None
        assert second.bridge.queue.loaded_bytes == 0


def test_backlog_goes_on_where_one_message_fills_its_memory(
        make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway.queue, "LIVE_MOST", 4)
    for module in (gateway.outbox, gateway.queue, gateway.drain):
        monkeypatch.setattr(module, "LOAD_BYTES", 1)
    with FakeBroker(v5=False) as broker:
        made = make(broker.port)
        made.wait_connected()
        made.wait_for("depth", 0)
        broker.behaviour.reads = False
        with RawClient(made.port) as client:
            client.open("c")
            client.send(b"".join(publish("t", b"%d" % n, 1, n + 1) for n in range(50)))
            assert [client.read() for _ in range(50)] == [
                (0x40, mid.to_bytes(2, "big")) for mid in range(1, 51)]
        assert made.bridge is not None
        assert made.bridge.queue.unloaded > 40
        broker.behaviour.reads = True
        made.wait_for("depth", 0)
        assert broker.payloads() == [b"%d" % n for n in range(50)]
