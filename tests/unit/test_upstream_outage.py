"""gateway/outage.py: what the log says of an upstream that is away, for minutes or for days."""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Iterator

from gateway.backoff import longest_wait_s
from gateway.outage import REMIND_FIRST_S, REMIND_MOST_S, STOOD_S, Outage

DAY_S = 86_400.0
BEGAN_S = 5000.0  # a monotonic clock does not begin at 0
REFUSED, NO_ROUTE = "broker:1883: Connection refused", "broker:1883: No route to host"


def told(outage: Outage, lasts_s: float, reasons: Iterator[str]) -> list[tuple[float, str]]:
    """Try as the gateway does for `lasts_s`; return the warnings and when they came."""
    rng, now_s, said = random.Random(1), BEGAN_S, []
    while now_s - BEGAN_S < lasts_s:
        level, text = outage.failed(next(reasons), now_s)
        assert level in (logging.DEBUG, logging.WARNING)
        if level == logging.WARNING:
            said.append((now_s - BEGAN_S, text))
        now_s += rng.uniform(0, longest_wait_s(outage.tries, now_s - BEGAN_S))
    return said


def test_first_try_in_vain_is_told_and_the_same_again_is_not() -> None:
    outage = Outage()
    assert outage.failed(REFUSED, 10.0) == (logging.WARNING, f"away reason='{REFUSED}' try=1")
    assert outage.failed(REFUSED, 11.0) == (logging.DEBUG, f"away reason='{REFUSED}' try=2")


def test_another_reason_is_told_at_once() -> None:
    outage = Outage()
    reasons = ["connection closed", REFUSED, REFUSED, NO_ROUTE]
    levels = [outage.failed(reason, 10.0 + n)[0] for n, reason in enumerate(reasons)]
    assert levels == [logging.WARNING, logging.WARNING, logging.DEBUG, logging.WARNING]


def test_days_of_one_reason_are_a_line_an_hour() -> None:
    said = told(Outage(), 3 * DAY_S, itertools.repeat(REFUSED))
    assert len(said) < 3 * 24 + 8
    times = [at_s for at_s, _ in said]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps[0] >= REMIND_FIRST_S
    assert all(second > first for first, second in itertools.pairwise(gaps[:6]))  # they double
    assert max(gaps) < REMIND_MOST_S + 60, "for longer than an hour nothing is said"


def test_reminder_says_how_long_how_often_and_why() -> None:
    outage = Outage()
    for number in range(6):
        outage.failed(REFUSED, BEGAN_S + number)
    assert outage.failed(NO_ROUTE, BEGAN_S + 61.0) == (
        logging.WARNING, f"still away away_s=61 tries=7 reason='{NO_ROUTE}'")


def test_reasons_in_turn_are_told_once_between_two_reminders() -> None:
    said = told(Outage(), DAY_S, itertools.cycle([REFUSED, NO_ROUTE]))
    reminders = [text for _, text in said if text.startswith("still ")]
    assert [text.startswith("still ") for _, text in said[:3]] == [False, False, True]
    assert 24 <= len(reminders) < 32
    assert 2 * len(reminders) <= len(said) <= 2 + 2 * len(reminders)


def test_summary_is_of_this_outage_alone_and_of_none_there_is_none() -> None:
    outage = Outage()
    assert outage.opened(5.0) == (logging.INFO, "")
    outage.failed(REFUSED, 5.0 + STOOD_S)
    outage.failed(REFUSED, 17.0)
    assert outage.opened(20.5) == (logging.INFO, " away_s=5.5 tries=2")
    assert outage.stands(21.0) == ""
    assert outage.stands(20.5 + STOOD_S) == ""  # one outage, one end: it was told
    assert outage.failed(REFUSED, 50.0) == (logging.WARNING, f"away reason='{REFUSED}' try=1")
    assert outage.opened(51.0) == (logging.INFO, " away_s=1.0 tries=1")


def test_broker_that_takes_us_and_hangs_up_is_one_outage() -> None:
    outage, now_s, said = Outage(), BEGAN_S, []
    for _ in range(2000):
        level, _ = outage.opened(now_s)
        said += ["connected"] * (level == logging.INFO)
        assert outage.stands(now_s + 0.5) == ""
        level, text = outage.failed("connection closed", now_s + 0.5)
        said += [text.partition(" ")[0]] * (level == logging.WARNING)
        now_s += 1.0
    assert said == ["connected", "away", "connected", *["still"] * 5]  # 1, 2, 4 … minutes
    assert outage.opened(now_s)[0] == logging.DEBUG
    assert outage.stands(now_s + STOOD_S) == "stands away_s=1999.5 tries=2000"
    assert outage.stands(now_s + 2 * STOOD_S) == ""
    assert outage.tries == 0


def test_link_that_was_good_and_falls_is_a_new_outage_each_time() -> None:
    outage = Outage()
    for number in range(50):
        assert outage.opened(100.0 * number)[0] == logging.INFO
        assert outage.failed("connection reset", 100.0 * number + 50)[0] == logging.WARNING
