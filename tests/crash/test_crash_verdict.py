"""Who lost it, who doubled it: the crash judge's rules, without any network."""

from __future__ import annotations

from tools.crash_devices import Key, Line
from tools.crash_plan import make_plan
from tools.crash_subscriber import Arrival
from tools.crash_verdict import Judge, Stream, Tally
from tools.crash_wire import Exchange

ONE, TWO = ("dev", 0, 1), ("dev", 0, 2)
KILLED = [(50.0, 51.0)]  # the upstream, and when the subscriber was back


def judge(arrived: list[Key], *, sends: int = 1, exact: bool = True, owed: bool = True,
          anew: int = 0,
          exchanges: dict[Key, list[Exchange]] | None = None, order: tuple[Key, ...] = (ONE, TWO),
          blind: list[tuple[float, float]] | None = None, qos: int = 2,
          min_qos: int = 2) -> Tally:
    ledger = {ONE: Line(sends, owed, anew), TWO: Line(sends, owed, anew)}
    arrivals = [Arrival(key, qos, 50.5) for key in arrived]
    return Judge({"dev": Stream(ledger, exact, min_qos)}, arrivals, exchanges or {},
                 {"dev": order}, blind or []).verdict()


def exchange(key: Key, at_s: float, *, taken: bool = True, released: bool = True) -> Exchange:
    return Exchange(key, 7, 2, at_s, at_s if taken else 0.0, at_s if released else 0.0)


def test_all_there_once_passes() -> None:
    tally = judge([ONE, TWO])
    assert tally.passed
    assert (tally.sent, tally.owed, tally.delivered) == (2, 2, 2)


def test_owed_and_absent_is_lost() -> None:
    assert judge([ONE]).lost == 1


def test_absent_but_not_owed_is_not_lost() -> None:
    assert judge([ONE], owed=False).lost == 0


def test_taken_by_an_upstream_that_was_killed_is_its_own_doing() -> None:
    taken = {TWO: [exchange(TWO, 49.9, released=False)]}
    tally = judge([ONE], exchanges=taken, blind=KILLED)
    assert (tally.lost, tally.forgotten_by_upstream) == (0, 1)


def test_taken_by_an_upstream_that_was_not_killed_is_lost() -> None:
    assert judge([ONE], exchanges={TWO: [exchange(TWO, 49.9)]}).lost == 1


def test_taken_long_before_the_upstream_was_killed_is_lost() -> None:
    assert judge([ONE], exchanges={TWO: [exchange(TWO, 40.0)]}, blind=KILLED).lost == 1


def test_never_taken_is_lost_though_the_upstream_was_killed() -> None:
    sent = {TWO: [exchange(TWO, 49.9, taken=False, released=False)]}
    assert judge([ONE], exchanges=sent, blind=KILLED).lost == 1


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


def test_released_once_to_a_killed_upstream_is_doubled_by_it() -> None:
    once = {ONE: [exchange(ONE, 49.0)]}
    tally = judge([ONE, TWO, ONE], exchanges=once, blind=KILLED)
    assert (tally.duplicated, tally.doubled_by_upstream) == (0, 1)


def test_released_twice_is_duplicated_by_us() -> None:
    twice = {ONE: [exchange(ONE, 49.0), exchange(ONE, 50.9)]}
    assert judge([ONE, TWO, ONE], exchanges=twice, blind=KILLED).duplicated == 1


def test_at_qos_1_the_last_leg_may_double() -> None:
    tally = judge([ONE, TWO, ONE], qos=1, min_qos=1)
    assert (tally.duplicated, tally.again_at_qos1) == (0, 1)


def test_later_before_earlier_is_reordered() -> None:
    assert judge([TWO, ONE]).reordered == 1


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
