"""The backlog on disk while it is being loaded: dropped and superseded rows are counted once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

import gateway.queue
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
