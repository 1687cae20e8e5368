"""The subscriber notes what the judge needs: when the upstream knew, and when it was away."""

from __future__ import annotations

import math
import random

import pytest

from tools import crash_mqtt as mqtt
from tools.crash_subscriber import Subscriber


@pytest.fixture
def now_s(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now_s = [10.0]
    monkeypatch.setattr("tools.crash_subscriber.time.monotonic", lambda: now_s[0])
    return now_s


@pytest.fixture
def subscriber() -> Subscriber:
    return Subscriber(1, random.Random(1))


def publish(subscriber: Subscriber, *, dup: bool = False) -> None:
    [packet] = mqtt.Decoder().feed(mqtt.publish(mqtt.Publish("t", b"dev 1 x", 2, False, dup, 7)))
    subscriber.on_packet(packet)


def release(subscriber: Subscriber) -> None:
    [packet] = mqtt.Decoder().feed(mqtt.ack(mqtt.PUBREL, 7))
    subscriber.on_packet(packet)


def test_message_is_done_at_its_pubrel(subscriber: Subscriber, now_s: list[float]) -> None:
    publish(subscriber)
    publish(subscriber, dup=True)
    [arrival] = subscriber.arrivals
    assert arrival.done_s == 0.0
    now_s[0] = 11.0
    release(subscriber)
    assert (arrival.t_s, arrival.done_s) == (10.0, 11.0)


def test_message_that_comes_again_after_its_pubrel_is_another(
        subscriber: Subscriber, now_s: list[float]) -> None:
    publish(subscriber)
    release(subscriber)
    publish(subscriber, dup=True)
    assert len(subscriber.arrivals) == 2


def test_outage_lasts_until_there_is_a_session(
        subscriber: Subscriber, now_s: list[float]) -> None:
    subscriber.upstream_killed()
    subscriber.upstream_saved(9.0)
    now_s[0] = 12.0
    subscriber.on_connected(True)
    [outage] = subscriber.outages
    assert (outage.killed_s, outage.back_s, outage.saved_s) == (10.0, 12.0, 9.0)


def test_killed_twice_in_one_outage_has_kept_what_the_first_had_saved(
        subscriber: Subscriber, now_s: list[float]) -> None:
    for saved_s in (9.0, 11.0):
        subscriber.upstream_killed()
        subscriber.upstream_saved(saved_s)
    subscriber.on_connected(True)
    assert [outage.saved_s for outage in subscriber.outages] == [9.0]


def test_of_one_that_tells_nothing_nothing_was_saved(
        subscriber: Subscriber, now_s: list[float]) -> None:
    subscriber.upstream_killed()
    subscriber.on_connected(True)
    assert subscriber.outages[0].saved_s == -math.inf
