"""Who lost it, who doubled it: the crash judge's rules, without any network."""

from __future__ import annotations

import math

import pytest

from tools.crash_devices import Key, Line
from tools.crash_plan import make_plan
from tools.crash_subscriber import Arrival, Outage
from tools.crash_verdict import AfterLostSession, Judge, Stream, Tally
from tools.crash_wire import Exchange

ONE, TWO = ("dev", 0, 1), ("dev", 0, 2)
SAVED = [Outage(50.0, 51.0, 49.5)]  # killed, had saved a moment before
NEVER_SAVED = [Outage(50.0, 51.0, -math.inf)]


def judge(arrived: list[Key | Arrival], *, sends: int = 1, exact: bool = True, owed: bool = True,
          anew: int = 0,
          exchanges: dict[Key, list[Exchange]] | None = None, order: tuple[Key, ...] = (ONE, TWO),
          outages: list[Outage] | None = None, qos: int = 2, min_qos: int = 2,
          after_lost_session: AfterLostSession = "resend") -> Tally:
    ledger = {ONE: Line(sends, owed, anew), TWO: Line(sends, owed, anew)}
    arrivals = [a if isinstance(a, Arrival) else Arrival(a, qos, 50.5) for a in arrived]
    return Judge({"dev": Stream(ledger, exact, min_qos)}, arrivals, exchanges or {},
                 {"dev": order}, outages or [], after_lost_session).verdict()


def exchange(key: Key, at_s: float, *, taken: bool = True, released: bool = True,
             ended: bool | None = None, lost_s: float = 0.0, refused: int = 0) -> Exchange:
    ended = released if ended is None else ended
    return Exchange(key, 7, 2, at_s, at_s if taken else 0.0, at_s if released else 0.0,
                    at_s if ended else 0.0, lost_s, refused)


def test_all_there_once_passes() -> None:
    tally = judge([ONE, TWO])
    assert tally.passed
    assert (tally.sent, tally.owed, tally.delivered) == (2, 2, 2)


def test_owed_and_absent_is_lost() -> None:
    assert judge([ONE]).lost == 1


def test_absent_but_not_owed_is_not_lost() -> None:
    assert judge([ONE], owed=False).lost == 0


@pytest.mark.parametrize("outages", [SAVED, NEVER_SAVED])
def test_ended_by_an_upstream_that_was_killed_then_is_its_own_doing(
        outages: list[Outage]) -> None:
    tally = judge([ONE], exchanges={TWO: [exchange(TWO, 49.9)]}, outages=outages)
    assert (tally.lost, tally.forgotten_by_upstream) == (0, 1)


def test_ended_by_an_upstream_that_was_not_killed_is_lost() -> None:
    assert judge([ONE], exchanges={TWO: [exchange(TWO, 49.9)]}).lost == 1


def test_ended_before_the_upstream_had_saved_is_lost() -> None:
    assert judge([ONE], exchanges={TWO: [exchange(TWO, 40.0)]}, outages=SAVED).lost == 1


def test_ended_by_an_upstream_that_never_saves_is_its_own_doing_however_long_before() -> None:
    tally = judge([ONE], exchanges={TWO: [exchange(TWO, 2.0)]}, outages=NEVER_SAVED)
    assert (tally.lost, tally.forgotten_by_upstream) == (0, 1)


@pytest.mark.parametrize("outages", [SAVED, NEVER_SAVED])
def test_ended_after_the_upstream_was_back_is_lost(outages: list[Outage]) -> None:
    assert judge([ONE], exchanges={TWO: [exchange(TWO, 51.1)]}, outages=outages).lost == 1


def test_ended_while_nobody_was_subscribed_is_the_upstreams_doing() -> None:
    assert judge([ONE], exchanges={TWO: [exchange(TWO, 50.9)]}, outages=SAVED).lost == 0


@pytest.mark.parametrize("outages", [SAVED, NEVER_SAVED])
def test_never_taken_is_lost_though_the_upstream_was_killed(outages: list[Outage]) -> None:
    sent = {TWO: [exchange(TWO, 49.9, taken=False, released=False)]}
    assert judge([ONE], exchanges=sent, outages=outages).lost == 1


def test_taken_and_never_ended_is_lost_though_the_upstream_was_killed() -> None:
    sent = {TWO: [exchange(TWO, 49.9, released=False)]}
    assert judge([ONE], exchanges=sent, outages=NEVER_SAVED).lost == 1


def test_taken_before_a_lost_session_and_not_sent_anew_is_lost_where_it_had_to_be() -> None:
    gone = {TWO: [exchange(TWO, 49.9, ended=False, lost_s=51.5)]}
    assert judge([ONE], exchanges=gone, outages=NEVER_SAVED).lost == 1


def test_taken_before_a_lost_session_and_dropped_as_told_is_counted_apart() -> None:
    gone = {TWO: [exchange(TWO, 49.9, ended=False, lost_s=51.5)]}
    tally = judge([ONE], exchanges=gone, after_lost_session="drop")
    assert (tally.lost, tally.after_lost_session_lost) == (0, 1)
    assert tally.passed


def test_not_taken_before_a_lost_session_is_lost_whatever_was_told() -> None:
    gone = {TWO: [exchange(TWO, 49.9, taken=False, released=False, lost_s=51.5)]}
    assert judge([ONE], exchanges=gone, after_lost_session="drop").lost == 1


def test_taken_again_under_a_later_exchange_is_judged_by_that_one() -> None:
    two = {TWO: [exchange(TWO, 49.9), exchange(TWO, 60.0)]}
    assert judge([ONE], exchanges=two, outages=NEVER_SAVED).lost == 1


@pytest.mark.parametrize("taken", [True, False])
def test_sent_anew_after_a_lost_session_may_double(taken: bool) -> None:
    anew = {ONE: [exchange(ONE, 49.0, taken=taken, released=False, lost_s=49.5),
                  exchange(ONE, 49.6)]}
    tally = judge([ONE, TWO, ONE], exchanges=anew)
    assert (tally.duplicated, tally.after_lost_session_doubled) == (0, 1)
    assert tally.passed


def test_lost_session_allows_no_third_one() -> None:
    anew = {ONE: [exchange(ONE, 49.0, released=False, lost_s=49.5), exchange(ONE, 49.6)]}
    tally = judge([ONE, TWO, ONE, ONE], exchanges=anew)
    assert (tally.duplicated, tally.after_lost_session_doubled) == (1, 1)


def test_sent_anew_without_a_lost_session_is_duplicated() -> None:
    anew = {ONE: [exchange(ONE, 49.0), exchange(ONE, 49.6)]}
    assert judge([ONE, TWO, ONE], exchanges=anew, outages=NEVER_SAVED).duplicated == 1


def test_sent_anew_after_a_refusal_is_duplicated() -> None:
    anew = {ONE: [exchange(ONE, 49.0, released=False, refused=0x97), exchange(ONE, 49.6)]}
    assert judge([ONE, TWO, ONE], exchanges=anew).duplicated == 1


def test_arrived_twice_is_duplicated() -> None:
    assert judge([ONE, TWO, ONE]).duplicated == 1


def test_plain_sender_that_sent_twice_doubles_by_itself() -> None:
    tally = judge([ONE, TWO, ONE], sends=2, exact=False)
    assert (tally.duplicated, tally.again_by_sender) == (0, 1)


def test_plain_sender_that_sent_twice_does_not_excuse_a_third() -> None:
    assert judge([ONE, TWO, ONE, ONE], sends=2, exact=False).duplicated == 1


def test_qos_2_sender_doubles_by_itself_only_as_often_as_its_session_was_gone() -> None:
    tally = judge([ONE, TWO, ONE, ONE], sends=5, anew=1)
    assert (tally.duplicated, tally.again_by_sender) == (1, 1)


def test_contract_device_that_sent_twice_excuses_nothing() -> None:
    assert judge([ONE, TWO, ONE], sends=2).duplicated == 1


def again(*, done_s: float = 49.4, second_s: float = 51.0) -> list[Key | Arrival]:
    return [Arrival(ONE, 2, 49.2, done_s), TWO, Arrival(ONE, 2, second_s, second_s)]


def test_handed_out_again_by_an_upstream_that_had_not_saved_that_it_was() -> None:
    tally = judge(again(), exchanges={ONE: [exchange(ONE, 49.0)]}, outages=SAVED)
    assert (tally.duplicated, tally.doubled_by_upstream) == (0, 1)


def test_handed_out_again_though_it_had_saved_that_it_was_is_duplicated() -> None:
    long_before = again(done_s=40.0)
    assert judge(long_before, exchanges={ONE: [exchange(ONE, 39.0)]}, outages=SAVED).duplicated


def test_handed_out_again_by_an_upstream_that_keeps_nothing_is_duplicated() -> None:
    assert judge(again(), exchanges={ONE: [exchange(ONE, 49.0)]}, outages=NEVER_SAVED).duplicated


def test_twice_before_the_upstream_was_killed_is_duplicated() -> None:
    twice = again(second_s=49.5)
    assert judge(twice, exchanges={ONE: [exchange(ONE, 49.0)]}, outages=SAVED).duplicated == 1


def test_at_qos_1_the_last_leg_may_double() -> None:
    tally = judge([ONE, TWO, ONE], qos=1, min_qos=1)
    assert (tally.duplicated, tally.again_at_qos1) == (0, 1)


def test_later_before_earlier_is_reordered() -> None:
    assert judge([TWO, ONE]).reordered == 1


def test_later_before_earlier_after_a_lost_session_is_counted_apart() -> None:
    anew = {ONE: [exchange(ONE, 40.0, released=False, lost_s=49.5), exchange(ONE, 50.0)]}
    tally = judge([TWO, ONE], exchanges=anew)
    assert (tally.reordered, tally.after_lost_session_reordered) == (0, 1)


def test_later_before_earlier_after_a_refusal_is_counted_apart() -> None:
    anew = {ONE: [exchange(ONE, 40.0, released=False, refused=0x97), exchange(ONE, 50.0)]}
    tally = judge([TWO, ONE], exchanges=anew)
    assert (tally.reordered, tally.reordered_after_refusal) == (0, 1)


def test_later_before_earlier_with_an_upstream_that_is_killed_later_is_reordered() -> None:
    late = [Outage(60.0, 61.0, -math.inf)]
    assert judge([TWO, ONE], exchanges={ONE: [exchange(ONE, 49.0)]}, outages=late).reordered == 1


def test_every_offence_is_named() -> None:
    ledger = {("dev", 0, number): Line(1, True) for number in range(50)}
    tally = Judge({"dev": Stream(ledger, True, 2)}, [], {}, {}, []).verdict()
    assert len(tally.offences) == tally.lost == 50


def test_falsely_refused_does_not_pass() -> None:
    tally = judge([ONE, TWO])
    tally.blame("falsely_refused", "t")
    assert not tally.passed


def test_a_duplicate_is_not_also_reordered() -> None:
    assert judge([ONE, TWO, ONE]).reordered == 0


def test_wrong_order_on_the_wire_is_reordered_whatever_arrived() -> None:
    assert judge([ONE, TWO], order=(TWO, ONE)).reordered == 1


def test_what_nobody_sent_is_invented() -> None:
    assert judge([ONE, TWO, ("dev", 0, 3)]).invented == 1


def test_lower_qos_is_seen() -> None:
    assert judge([ONE, TWO], qos=1).wrong_qos == 2


def test_nothing_owed_does_not_pass() -> None:
    assert not judge([], owed=False).passed


def test_plan_is_repeated_by_its_seed() -> None:
    assert make_plan(60, 5) == make_plan(60, 5)
    assert make_plan(60, 5) != make_plan(60, 6)
    assert [len(plan.lives) for plan in make_plan(60, 5)] == [25, 25, 10]


def test_plan_of_another_broker_or_version_breaks_the_same_at_the_same_times() -> None:
    drawn, asked = make_plan(60, 5), make_plan(60, 5, broker="emqx", protocol="5")
    assert [plan.lives for plan in asked] == [plan.lives for plan in drawn]
    assert {plan.protocol for plan in asked} == {"5"}
    assert [plan.upstream for plan in asked] == ["safe", "forgetful", "safe"]
