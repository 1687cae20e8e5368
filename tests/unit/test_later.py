"""gateway/later.py: who waits how long where a broker refuses, and who is never to blame.

`Broker` takes what its buckets have; time is passed in.
"""

from __future__ import annotations

from collections import deque

import pytest

from gateway import later
from gateway.later import Later

STEP_S = 0.05


class Site:
    """Topics with one message each are sent as later.py allows; a refused one waits there."""

    def __init__(self, rate: float, *, bad: frozenset[str] = frozenset()) -> None:
        self.later = Later()
        self.rate, self.bad = rate, bad
        self.now_s, self._tokens = 100.0, 1.0
        self.fresh: deque[str] = deque()
        self.taken: dict[str, float] = {}
        self.blamed: list[str] = []
        self.tries = 0

    def run(self, for_s: float, *, new_per_s: float = 0.0) -> None:
        end_s = self.now_s + for_s
        count = 0.0
        while self.now_s < end_s:
            count += new_per_s * STEP_S
            while count >= 1:
                count -= 1
                self.fresh.append(f"n{self.now_s:.2f}/{count:.3f}")
            self._tokens = min(max(self.rate, 1.0), self._tokens + self.rate * STEP_S)
            self._send()
            self.now_s += STEP_S

    def _send(self) -> None:
        limit = self.later.limit(self.now_s)
        room = 20 if limit is None else min(limit, 20)
        ready = self.later.ready(self.now_s, fresh=bool(self.fresh))
        for topic in ready[room:]:
            self.later.topics[topic].sent = False
        batch = ready[:room]
        while self.fresh and len(batch) < room:
            batch.append(self.fresh.popleft())
        took = 0
        for topic in batch:
            self.tries += 1
            if topic not in self.bad and self._tokens >= 1:
                self._tokens -= 1
                self.taken[topic] = self.now_s
                self.later.settled(topic)
                took += 1
            elif self.later.refused(topic, self.now_s):
                self.blamed.append(topic)
                self.later.settled(topic)
        if took:
            self.later.taken(took, self.now_s)


@pytest.mark.parametrize("rate", [2.0, 10.0, 50.0])
def test_broker_that_takes_some_a_second_gets_them(rate: float) -> None:
    site = Site(rate)
    site.fresh.extend(f"t{n}" for n in range(5000))
    site.run(120)
    assert len(site.taken) >= 0.75 * rate * 120
    assert not site.blamed
    assert site.tries < 40 * len(site.taken) + 800


def test_nobody_is_to_blame_in_a_quota_that_lasts_for_an_hour() -> None:
    site = Site(2.0)
    site.run(3600, new_per_s=2.5)
    assert not site.blamed
    assert len(site.taken) > 0.9 * 2 * 3600


def test_broker_that_refuses_everything_is_asked_now_and_then_and_blames_nobody() -> None:
    site = Site(0.0)
    site._tokens = 0.0
    site.fresh.extend(f"t{n}" for n in range(200))
    site.run(1800)
    assert not site.blamed
    assert not site.taken
    assert site.tries < 400
    site.rate = 1000.0
    site.run(30)
    assert len(site.taken) == 200


def test_one_that_is_always_refused_while_others_pass_is_to_blame_and_stops_nothing() -> None:
    site = Site(1000.0, bad=frozenset({"bad"}))
    site.fresh.append("bad")
    site.run(later.STANDS_S / 2, new_per_s=10)
    assert not site.blamed
    site.run(later.STANDS_S * 3, new_per_s=10)
    assert site.blamed == ["bad"]
    assert len(site.taken) > 0.95 * 10 * later.STANDS_S * 3.5
    assert not site.later.active


def test_one_that_is_refused_where_nothing_else_is_sent_is_not_to_blame() -> None:
    site = Site(1000.0, bad=frozenset({"bad"}))
    site.fresh.append("bad")
    site.run(3600)
    assert not site.blamed
    site.fresh.extend(f"t{n}" for n in range(50))
    site.run(60)
    assert len(site.taken) == 50


def test_new_connection_begins_without_waiting_and_forgets_no_tries() -> None:
    lane = Later()
    for n in range(5):
        lane.refused("t", 10.0 + n)
        lane.taken(1, 10.0 + n)
    tries = lane.topics["t"].tries
    assert tries > 0
    lane.connected(20.0)
    assert not lane.topics
    lane.refused("t", 21.0)
    assert lane.topics["t"].tries >= tries
