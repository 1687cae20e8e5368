"""How long the gateway waits before it tries the upstream again."""

from __future__ import annotations

import random

from gateway.backoff import BACKOFF_MOST_S, longest_wait_s


def back_after(outage_s: float, rng: random.Random) -> float:
    """Return how long after the end of an outage the upstream is tried with success."""
    away_s, tried = 0.0, 0
    while away_s < outage_s:
        tried += 1
        away_s += rng.uniform(0, longest_wait_s(tried, away_s))
    return away_s - outage_s


def test_short_outage_is_never_followed_by_a_long_wait() -> None:
    rng = random.Random(1)
    assert max(back_after(3.0, rng) for _ in range(20_000)) < 4.5


def test_wait_grows_to_its_most_and_no_further() -> None:
    waits = [longest_wait_s(tried, 1000.0) for tried in range(1, 20)]
    assert waits == sorted(waits)
    assert waits[0] == 1.0
    assert waits[-1] == BACKOFF_MOST_S
