"""The bench's verdict, from evidence made by hand: every offence named, and nothing else."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.arrival import Arrival
from tools.crash_mqtt import CONNACK, PUBACK, PUBLISH, PUBREC, Publish, ack, encode, publish
from tools.hil.actor import Item
from tools.hil.evidence import Evidence, WillOwed
from tools.hil.judgement import STAGES, Judgement, judge
from tools.hil.scenario import ScenarioError, parse, parse_expectation
from tools.hil.sights import Promises, Sights
from tools.verdict import Message, Record, judge_stream

ALL = ["lost = 0", "duplicated = 0", "reordered = 0", "invented = 0", "wrong_qos = 0",
       "wrong_retain = 0", "will_lost = 0", "will_doubled = 0", "unacknowledged = 0"]
LINK = object()


def item(number: int, *, qos: int = 1, acked: bool = True, sends: int = 1, topic: str = "t",
         retain: bool = False) -> Item:
    made = Item("c", topic, b"%d" % number, qos, retain)
    made.sent_ns, made.sends = 1000 + number, sends
    made.acked_ns = 2000 + number if acked else 0
    return made


def came(number: int, at: int = 5000, topic: str = "t") -> Arrival:
    return Arrival(at, topic, b"%d" % number, 2, False)


def wire(*packets: tuple[str, bytes]) -> Sights:
    sights = Sights()
    for direction, data in packets:
        sights.tap(LINK, direction, data)  # type: ignore[arg-type]
    return sights


def verdict(items: list[Item], arrivals: list[Arrival], sights: Sights | None = None,
            **more: object) -> Judgement:
    evidence = Evidence(0, items, arrivals, sights or Sights(), **more)  # type: ignore[arg-type]
    return judge(evidence, [parse_expectation(text) for text in ALL])


def broken(found: Judgement) -> list[str]:
    return [text.split()[0] for text, holds in found.expectations if not holds]


def sent(number: int, *, qos: int = 1, mid: int = 1, dup: bool = False, retain: bool = False
         ) -> tuple[str, bytes]:
    return "up", publish(Publish("t", b"%d" % number, qos, retain, dup, mid))


@given(st.lists(st.integers(0, 9), max_size=20))
def test_judge_counts_as_the_core_does(order: list[int]) -> None:
    found = verdict([item(number, qos=2) for number in range(8)],
                    [came(number) for number in order])
    core = judge_stream(range(8), order)
    assert [found.measured[name] for name in
            ("lost", "duplicated", "reordered", "delivered", "produced")] == [
        core.lost, core.duplicated, core.reordered, core.delivered, core.produced]


@pytest.mark.parametrize(("packets", "why"), [
    ([], "never sent it"),
    ([sent(1)], "never acknowledged it"),
    ([sent(1), ("down", ack(PUBACK, 1))], "the upstream acknowledged it"),
    ([sent(1, qos=2), ("down", ack(PUBREC, 1))], "the upstream acknowledged it"),
])
def test_judge_says_who_lost_it(packets: list[tuple[str, bytes]], why: str) -> None:
    found = verdict([item(1)], [], wire(*packets))
    assert "lost" in broken(found)
    assert why in found.offences[0].why


@pytest.mark.parametrize(("packets", "why"), [
    ([sent(1), sent(1, mid=2)], "the gateway sent it 2 times"),
    ([sent(1), sent(1, dup=True)], "the upstream doubled it"),
    ([sent(1), ("down", encode(CONNACK, 0, b"\0\0")), sent(1, dup=True)], "2 times"),
])
def test_judge_says_who_doubled_it(packets: list[tuple[str, bytes]], why: str) -> None:
    found = verdict([item(1, qos=2)], [came(1), came(1)], wire(*packets))
    assert "duplicated" in broken(found)
    assert any(why in offence.why for offence in found.offences)


def test_judge_unacknowledged_may_be_absent_but_is_told() -> None:
    found = verdict([item(1), item(2, acked=False)], [came(1)])
    assert broken(found) == ["unacknowledged"]


def test_judge_sent_twice_at_qos_1_may_arrive_twice() -> None:
    assert broken(verdict([item(1, sends=2)], [came(1), came(1)])) == []
    assert broken(verdict([item(1, sends=2)], [came(1)] * 3)) == ["duplicated"]
    assert broken(verdict([item(1, qos=2, sends=2)], [came(1), came(1)])) == ["duplicated"]


def test_judge_same_content_sent_twice_is_two_messages() -> None:
    assert broken(verdict([item(1, qos=2), item(1, qos=2)], [came(1), came(1)])) == []
    assert broken(verdict([item(1, qos=2), item(1, qos=2)], [came(1)])) == ["lost"]


def test_judge_qos_and_retain_on_the_wire() -> None:
    assert broken(verdict([item(1)], [came(1)], wire(sent(1)), upgrade=2)) == ["wrong_qos"]
    assert broken(verdict([item(1)], [came(1)], wire(sent(1, qos=2)))) == ["wrong_qos"]
    assert broken(verdict([item(1)], [came(1)], wire(sent(1, retain=True)))) == ["wrong_retain"]
    assert broken(verdict([item(1)], [came(1)], wire(sent(1)), upgrade=1)) == []


@pytest.mark.parametrize(("count", "says"), [(0, ["will_lost"]), (1, []), (2, ["will_doubled"])])
def test_judge_will_exactly_once(count: int, says: list[str]) -> None:
    wills = [WillOwed("c", Message("w", b"7"), 1, 1)]
    found = verdict([item(1)], [came(1), *[came(7, topic="w")] * count], wills=wills)
    assert broken(found) == says


def test_judge_stranger_is_invented() -> None:
    assert broken(verdict([item(1)], [came(1), came(3, topic="else")])) == ["invented"]
    assert broken(verdict([item(1)], [came(1), came(3)])) == ["invented"]


def test_judge_nothing_owed_is_invalid() -> None:
    assert verdict([], []).outcome == "INVALID"
    assert verdict([item(1, qos=0)], []).outcome == "INVALID"


def test_judge_drain_is_counted_from_the_heal() -> None:
    found = verdict([item(1), item(2)], [came(1, 4_000_000_000), came(2, 9_000_000_000)],
                    healed_ns=3_000_000_000)
    assert found.measured["drain_s"] == pytest.approx(6.0)


def test_judge_wrong_time_of_a_record() -> None:
    def data(seq: int, time: str | None) -> Arrival:
        payload = {"device": "d", "life": "aa", "boot": 1, "seq": seq, "time": time}
        raw = json.dumps(payload, separators=(",", ":")).encode()
        return Arrival(10**9, "tidegate/d/data/air", raw, 2, False)

    told = {Record("d", "aa", 1, seq): 10**9 for seq in (1, 2, 3)}
    arrivals = [data(1, "1970-01-01T00:00:02.000Z"), data(2, None),
                data(3, "2026-11-23T13:12:38.123Z")]
    found = judge(Evidence(0, [], arrivals, Sights(), told=told, owed_records=frozenset(told)),
                  [parse_expectation("wrong_time = 1"), parse_expectation("records = 3")])
    assert found.outcome == "PASS", found.offences


def test_sights_bear_garbage() -> None:
    assert wire(("up", b"\xff\xff\xff\xff\xff\xff"), ("up", b"x")).unreadable == 1
    assert PUBLISH == 3


GOOD = 'title = "t"\nseconds = 1\nexpect = ["lost = 0"]\n[[traffic]]\n'


@pytest.mark.parametrize(("old", "new", "says"), [
    ("lost = 0", "lust = 0", "'lust' is not measured"),
    ("lost = 0", "lost ~ 0", "is needed"),
    ('["lost = 0"]', "[]", "at least one"),
    ("[[traffic]]", "", "traffic or boards"),
    ("[[traffic]]", "[[traffic]]\nqos = 3", "qos"),
    ("[[traffic]]", '[[fault]]\ndo = "pray"\nat = 0.1\n[[traffic]]', "pray"),
    ("[[traffic]]", '[[fault]]\ndo = "gateway.kill"\nat = 0.5\n[[traffic]]', "until"),
    ("seconds", "secnds", "secnds"),
])
def test_scenario_that_is_wrong_is_named(old: str, new: str, says: str, tmp_path: object) -> None:
    from pathlib import Path

    assert parse(GOOD, "s", Path()).expectations
    with pytest.raises(ScenarioError, match=f"s.toml: .*{says}"):
        parse(GOOD.replace(old, new), "s", Path())


def record_evidence(acked: int, on_wire: dict[int, int], came: list[int]) -> Evidence:
    """Make the evidence of a board that told of records 1 to 3 at 1 s.

    acked: up to which; on_wire: how often the gateway sent each.
    """
    def data(seq: int) -> tuple[str, bytes]:
        payload = {"device": "d", "life": "aa", "boot": 1, "seq": seq, "time": None}
        return "tidegate/d/data/air", json.dumps(payload, separators=(",", ":")).encode()

    sights, promises = Sights(), Promises()
    for seq, times in on_wire.items():
        for mid in range(1, times + 1):
            topic, payload = data(seq)
            sights.tap(LINK, "up", publish(Publish(topic, payload, 1, False, False, mid)))  # type: ignore[arg-type]
            sights.tap(LINK, "down", ack(PUBACK, mid))  # type: ignore[arg-type]
    promises.heard("d", b'{"v":1,"life":"aa","boot":1,"seq":%d}' % acked, 1_200_000_000)
    told = dict.fromkeys((Record("d", "aa", 1, seq) for seq in (1, 2, 3)), 1_000_000_000)
    arrivals = [Arrival(1_500_000_000, *data(seq), 2, False) for seq in came]
    return Evidence(0, [], arrivals, sights, told=told, owed_records=frozenset(told),
                    promises=promises)


@pytest.mark.parametrize(("acked", "on_wire", "why"), [
    (1, {1: 1, 3: 1}, "the gateway never acknowledged it; the board holds it, or lost it"),
    (3, {1: 1, 3: 1}, "the gateway acknowledged it and never sent it"),
    (3, {1: 1, 2: 1, 3: 1}, "the upstream acknowledged it and did not deliver it"),
])
def test_judge_says_who_lost_a_record(acked: int, on_wire: dict[int, int], why: str) -> None:
    found = judge(record_evidence(acked, on_wire, [1, 3]), [parse_expectation("lost = 1")])
    assert found.outcome == "PASS"
    assert [(one.kind, one.what, one.why, one.t_s) for one in found.offences] == [
        ("lost", "d life aa boot 1 seq 2", why, 1.0)]


def test_judge_says_who_doubled_a_record() -> None:
    found = judge(record_evidence(3, {1: 2, 2: 1, 3: 1}, [1, 1, 2, 2, 3]),
                  [parse_expectation("duplicated = 2")])
    assert found.outcome == "PASS"
    assert [one.why for one in found.offences] == [
        "the gateway sent it 2 times as new", "the gateway sent it once; the upstream doubled it"]


def test_judge_times_each_stage_of_a_record() -> None:
    found = judge(record_evidence(2, {1: 1}, [1, 2, 3]), [parse_expectation("lost = 0")])
    counts = [found.stages[name].count for name in STAGES]
    assert counts == [2, 1, 1, 3]
    assert found.stages[STAGES[0]].percentile(50) == pytest.approx(200, rel=0.03)
    assert found.stages[STAGES[3]].percentile(50) == pytest.approx(500, rel=0.03)


def test_promises_are_read_off_the_wire() -> None:
    promises = Promises()
    said = b'{"v":1,"life":"aa","boot":2,"seq":7}'
    for topic, payload in (("tidegate/d/down/ack", said), ("tidegate/d/down/ack", b"[]"),
                           ("tidegate/d/up", said), ("x/d/down/ack", said)):
        sent = publish(Publish(topic, payload, 0, False, False, 0))
        promises.tap(LINK, "down", sent[:5])  # type: ignore[arg-type]
        promises.tap(LINK, "down", sent[5:])  # type: ignore[arg-type]
        promises.tap(LINK, "up", sent)  # type: ignore[arg-type]
    assert promises.acked_ns(Record("d", "aa", 2, 7)) > 0
    assert promises.acked_ns(Record("d", "aa", 2, 8)) == 0
    assert promises.acked_ns(Record("d", "aa", 1, 1)) == 0
