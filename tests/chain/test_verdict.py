"""The judge's core: what it says of orders that went right and of every kind of fault."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.arrival import record_of, told_record
from tools.verdict import (
    UNTOLD,
    Message,
    Record,
    Verdict,
    judge_messages,
    judge_records,
    judge_stream,
)


def rec(seq: int, *, boot: int = 1, life: str = "aa", device: str = "d") -> Record:
    return Record(device, life, boot, seq)


def counts(verdict: Verdict) -> tuple[int, int, int, int]:
    return verdict.lost, verdict.duplicated, verdict.reordered, verdict.invented


names = st.lists(st.integers(), unique=True, min_size=1)


@given(names)
def test_judge_stream_all_arrived_passes(sent: list[int]) -> None:
    verdict = judge_stream(sent, sent)
    assert verdict.passed
    assert verdict.produced == verdict.delivered == len(sent)


@given(names, st.data())
def test_judge_stream_names_each_lost(sent: list[int], data: st.DataObject) -> None:
    lost = data.draw(st.sets(st.sampled_from(sent), min_size=1))
    verdict = judge_stream(sent, [m for m in sent if m not in lost])
    assert counts(verdict) == (len(lost), 0, 0, 0)
    named = [o.what for o in verdict.offences if o.kind == "lost"]
    assert named == [str(m) for m in sent if m in lost][:10]
    assert not verdict.passed


@given(names, st.data())
def test_judge_stream_counts_each_duplicate(sent: list[int], data: st.DataObject) -> None:
    arrived = list(sent)
    extra = data.draw(st.lists(st.sampled_from(sent), min_size=1, max_size=5))
    for message in extra:
        first = arrived.index(message)
        arrived.insert(data.draw(st.integers(first + 1, len(arrived))), message)
    assert counts(judge_stream(sent, arrived)) == (0, len(extra), 0, 0)


@given(names.filter(lambda sent: len(sent) > 1), st.data())
def test_judge_stream_late_message_is_reordered(sent: list[int], data: st.DataObject) -> None:
    moved = data.draw(st.integers(0, len(sent) - 2))
    to = data.draw(st.integers(moved + 1, len(sent) - 1))
    arrived = [m for m in sent if m != sent[moved]]
    arrived.insert(to, sent[moved])
    assert counts(judge_stream(sent, arrived)) == (0, 0, 1, 0)


@given(names, st.data())
def test_judge_stream_any_difference_fails(sent: list[int], data: st.DataObject) -> None:
    arrived = data.draw(st.lists(st.sampled_from([*sent, max(sent) + 1]), max_size=20))
    assert judge_stream(sent, arrived).passed == (arrived == sent)


def test_judge_stream_possible_message_may_be_absent() -> None:
    assert counts(judge_stream([1, 2, 3], [1, 3], possible={2})) == (0, 0, 0, 0)
    assert judge_stream([1, 2, 3], [1, 3], possible={2}).produced == 2


def test_judge_stream_refuses_two_of_one_name() -> None:
    with pytest.raises(ValueError, match="twice"):
        judge_stream([1, 1], [1])


def test_judge_records_nothing_produced_fails() -> None:
    assert not judge_records([], []).passed


def test_judge_records_counts_boots_and_lives_apart() -> None:
    told = [rec(1), rec(2), rec(1, boot=2), rec(1, life="bb"), rec(1, device="e")]
    verdict = judge_records(told, told)
    assert verdict.passed
    assert verdict.line == ("verdict: PASS produced=5 delivered=5 lost=0 duplicated=0 reordered=0")


def test_judge_records_earlier_boot_after_later_is_reordered() -> None:
    told = [rec(1), rec(2), rec(1, boot=2)]
    assert counts(judge_records(told, [told[0], told[2], told[1]])) == (0, 0, 1, 0)


def test_judge_records_untold_after_the_last_is_let_pass() -> None:
    verdict = judge_records([rec(1), rec(2)], [rec(1), rec(2), rec(3), rec(4)])
    assert verdict.passed
    assert verdict.produced == verdict.delivered == 2


def test_judge_records_untold_twice_is_a_duplicate() -> None:
    arrived = [rec(1), rec(2), rec(2)]
    assert counts(judge_records([rec(1)], arrived)) == (0, 1, 0, 0)


def test_judge_records_far_from_what_was_told_is_invented() -> None:
    assert counts(judge_records([rec(1)], [rec(1), rec(2 + UNTOLD)])) == (0, 0, 0, 1)
    assert counts(judge_records([rec(1)], [rec(1), rec(0)])) == (0, 0, 0, 1)


def test_judge_records_possible_may_be_absent_but_not_twice() -> None:
    told = [rec(1), rec(2), rec(3)]
    late = {rec(3)}
    assert judge_records(told, told[:2], possible=late).passed
    assert judge_records(told, told, possible=late).produced == 3
    assert counts(judge_records(told, [*told, rec(3)], possible=late)) == (0, 1, 0, 0)


def test_judge_records_names_the_first_offences() -> None:
    told = [rec(n) for n in range(1, 101)]
    verdict = judge_records(told, [*told[:40], *told[60:]])
    assert verdict.lost == 20
    assert str(verdict.offences[0].what) == "d life aa boot 1 seq 41"
    assert verdict.line.startswith("verdict: FAIL produced=100 delivered=80 lost=20 ")


def test_judge_messages_counts_equal_content() -> None:
    on, off = Message("t", b"on"), Message("t", b"off")
    sent = {"t": [(on, True), (off, True), (on, True)]}
    assert judge_messages(sent, {"t": [on, off, on]}).passed
    assert counts(judge_messages(sent, {"t": [on, off]})) == (1, 0, 0, 0)
    assert counts(judge_messages(sent, {"t": [on, off, on, on]})) == (0, 1, 0, 0)


def test_judge_messages_unacknowledged_may_be_absent() -> None:
    one, two = Message("t", b"1"), Message("t", b"2")
    assert judge_messages({"t": [(one, True), (two, False)]}, {"t": [one]}).passed


def test_judge_messages_nobody_sent_it_is_invented() -> None:
    one, two = Message("t", b"1"), Message("t", b"2")
    assert counts(judge_messages({"t": [(one, True)]}, {"t": [one, two]})) == (0, 0, 0, 1)


def test_told_record_reads_the_console() -> None:
    assert told_record("d", "rec 9f03c2aa 7 1041") == Record("d", "9f03c2aa", 7, 1041)
    assert told_record("d", "wifi up") is None
    assert told_record("d", "rec 9f03c2aa 7") is None
    assert told_record("d", "rec 9f03c2aa 7 10\ufffd1") is None


def test_record_of_reads_the_upstream_form() -> None:
    payload = b'{"device":"d","life":"aa","boot":1,"seq":2,"time":null,"sensor":"s","values":{}}'
    assert record_of(payload) == rec(2)
    assert record_of(b"online") is None
    assert record_of(b"[1]") is None
    assert record_of(b"\xff") is None
