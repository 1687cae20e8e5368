"""The verdict: what was lost, doubled, late, out of order, at the wrong QoS, and why. Pure.

Rules, beyond those of tools.verdict:
- Owed is what its client got an acknowledgement for (PUBACK, PUBREC; a board: what its console
  told of). What was sent at QoS 0, or never acknowledged, may arrive or not.
- A client that sent a message again at QoS 1, or at QoS 2 in a session that was lost, may rightly
  have doubled it; so many arrivals are allowed and counted as `resent`.
- The QoS upstream is the larger of the client's and the route's; the retain flag is the client's.
  Both are read off the wire between gateway and upstream, since a broker does not hand them on.
- A will is owed exactly once by a client that vanished. One whose connection was lost otherwise
  may have left one each time.
- *Drain*: from the end of the last fault to the arrival of the last message sent before it.
- INVALID, whatever came out: nothing was owed, a fault could not be done, or the replay was late.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from tools.arrival import Arrival, record_of
from tools.hil.actor import Item
from tools.hil.evidence import Evidence
from tools.hil.histogram import Histogram
from tools.hil.scenario import Expectation
from tools.verdict import Message, Occurrence, Record, judge_records, judge_stream

NAMED = 20
"""How many offences a verdict names; all are counted."""
CLOCK_S = 120.0
"""A record's time may be so far [s] from the true one."""
COUNTS = ("produced", "delivered", "lost", "duplicated", "reordered", "invented", "wrong_qos",
          "wrong_retain", "will_lost", "will_doubled", "wrong_time", "unacknowledged", "resent")
TIMES = ("p50_ms", "p95_ms", "p99_ms", "max_ms", "drain_s", "late_p99_ms")
SEEN = ("connects", "upstream_connects", "cuts", "corrupted", "records", "boots",
        "most_backlog", "gateway_ended")
MEASURED = frozenset({*COUNTS, *TIMES, *SEEN})
STAGES = ("device to gateway's acknowledgement", "device to gateway's PUBLISH",
          "gateway's PUBLISH to subscriber", "end to end")


@dataclass(frozen=True)
class Offence:
    """One thing that went wrong. t_s: when it was sent [s from the begin], where known."""

    kind: str
    what: str
    why: str = ""
    t_s: float | None = None


@dataclass
class Judgement:
    """The verdict of a run; `outcome` is PASS, FAIL or INVALID."""

    outcome: str
    measured: dict[str, float]
    expectations: list[tuple[str, bool]]
    offences: list[Offence]
    invalid: list[str]
    stages: dict[str, Histogram]

    @property
    def line(self) -> str:
        """The verdict in one line."""
        told = " ".join(f"{name}={self.measured[name]:g}" for name in COUNTS[:5])
        broken = ", ".join(text for text, holds in self.expectations if not holds)
        why = "; ".join(self.invalid) if self.outcome == "INVALID" else (
            broken and f"does not hold: {broken}")
        return f"verdict: {self.outcome} {told}" + (f" | {why}" if why else "")


class _Judge:
    def __init__(self, evidence: Evidence) -> None:
        self.evidence = evidence
        self.measured: dict[str, float] = dict.fromkeys(COUNTS, 0) | evidence.measured
        self.offences: list[Offence] = []
        self.stages = {name: Histogram() for name in STAGES}
        self._last_ns = evidence.healed_ns

    def blame(self, kind: str, what: object, why: str = "", t_ns: int = 0) -> None:
        """Name an offence; the counting is done elsewhere."""
        if sum(offence.kind == kind for offence in self.offences) < NAMED:
            t_s = (t_ns - self.evidence.began_ns) / 1e9 if t_ns else None
            self.offences.append(Offence(kind, str(what), why, t_s))

    def messages(self) -> None:
        """Judge foreign traffic, topic by topic, by content."""
        sent: dict[str, list[Item]] = defaultdict(list)
        for item in self.evidence.items:
            if item.sends:
                sent[item.topic].append(item)
            elif item.qos:
                self.measured["unacknowledged"] += 1
        wills = {owed.message.topic for owed in self.evidence.wills}
        came: dict[str, list[Arrival]] = defaultdict(list)
        for arrival in self.evidence.arrivals:
            if arrival.topic in sent:
                came[arrival.topic].append(arrival)
            elif arrival.topic not in wills and not arrival.topic.startswith("tidegate/"):
                self.measured["invented"] += 1
                self.blame("invented", arrival.message)
        for topic, items in sent.items():
            self._stream(items, came[topic])

    def _stream(self, items: Sequence[Item], came: Sequence[Arrival]) -> None:
        named: dict[Occurrence, Item] = {}
        numbers: Counter[Message] = Counter()
        allowed: Counter[Message] = Counter()
        for item in items:
            message = Message(item.topic, item.payload)
            numbers[message] += 1
            allowed[message] += item.allowed
            named[Occurrence(message, numbers[message])] = item
        arrived: list[Occurrence] = []
        seen: Counter[Message] = Counter()
        for arrival in came:
            message = arrival.message
            seen[message] += 1
            if seen[message] <= numbers[message] or not numbers[message]:
                name = Occurrence(message, seen[message])
                arrived.append(name)
                if name in named:
                    self._latency(named[name], arrival)
            elif seen[message] <= allowed[message]:
                self.measured["resent"] += 1
            else:
                arrived.append(Occurrence(message, numbers[message]))
        possible = {name for name, item in named.items() if not (item.qos and item.acked_ns)}
        verdict = judge_stream(list(named), arrived, possible=possible)
        for kind in ("produced", "delivered", "lost", "duplicated", "reordered", "invented"):
            self.measured[kind] += getattr(verdict, kind)
        by_text = {str(name): name for name in [*named, *arrived]}
        for offence in verdict.offences:
            occurrence = by_text[offence.what]
            item_of = named.get(occurrence)
            sent_ns = item_of.sent_ns if item_of else 0
            self.blame(offence.kind, occurrence, self._why(offence.kind, occurrence.message,
                                                           allowed[occurrence.message]), sent_ns)
        self._flags(named)
        self.measured["unacknowledged"] += sum(
            1 for item in items if item.qos and not item.acked_ns)

    def _why(self, kind: str, message: Message, allowed: int) -> str:
        if kind == "lost":
            return self.evidence.sights.why_lost(message)
        if kind == "duplicated":
            return self.evidence.sights.why_doubled(message, allowed)
        if kind == "reordered":
            return "a later one arrived before it"
        return "nobody sent it"

    def _latency(self, item: Item, arrival: Arrival) -> None:
        if item.sent_ns < self.evidence.healed_ns:
            self._last_ns = max(self._last_ns, arrival.t_ns)
        sights = self.evidence.sights.seen.get(arrival.message)
        self._stages(item.sent_ns, item.acked_ns, sights[0].times_ns[0] if sights else 0,
                     arrival.t_ns)

    def _stages(self, sent_ns: int, acked_ns: int, on_wire_ns: int, came_ns: int) -> None:
        """Count the latency of one message in each stage; 0 for a time that is not known."""
        stages = [self.stages[name] for name in STAGES]
        if acked_ns:
            stages[0].add((acked_ns - sent_ns) / 1e6)
        if on_wire_ns:
            stages[1].add((on_wire_ns - sent_ns) / 1e6)
            stages[2].add((came_ns - on_wire_ns) / 1e6)
        stages[3].add((came_ns - sent_ns) / 1e6)

    def _flags(self, named: Mapping[Occurrence, Item]) -> None:
        """Compare QoS and retain on the wire with what was asked for."""
        asked = {name.message: item for name, item in named.items()}
        for message, item in asked.items():
            sights = self.evidence.sights.seen.get(message)
            if not sights:
                continue
            qos = max(item.qos, self.evidence.upgrade)
            if any(sight.qos != qos for sight in sights):
                self.measured["wrong_qos"] += 1
                self.blame("wrong_qos", message, f"the gateway sent it at QoS {sights[0].qos}, "
                           f"not {qos}", item.sent_ns)
            if any(sight.retain != item.retain for sight in sights):
                self.measured["wrong_retain"] += 1
                self.blame("wrong_retain", message, "the gateway sent it "
                           f"{'not ' if item.retain else ''}retained", item.sent_ns)

    def wills(self) -> None:
        """Judge wills: as often as allowed."""
        came = Counter(arrival.message for arrival in self.evidence.arrivals)
        for owed in self.evidence.wills:
            count = came[owed.message]
            if count < owed.least:
                self.measured["will_lost"] += owed.least - count
                self.blame("will_lost", f"will of {owed.client}: {owed.message}",
                           f"it vanished; {count} of {owed.least} arrived")
            elif count > owed.most:
                self.measured["will_doubled"] += count - owed.most
                self.blame("will_doubled", f"will of {owed.client}: {owed.message}",
                           f"{count} arrived, {owed.most} are right")

    def records(self) -> None:
        """Judge the records of boards, by device, life, boot and seq."""
        evidence, first = self.evidence, dict[Record, Arrival]()
        arrived: list[Record] = []
        for arrival in evidence.arrivals:
            name = record_of(arrival.payload)
            if name is not None and "/data/" in arrival.topic:
                arrived.append(name)
                first.setdefault(name, arrival)
                self._time_of(name, arrival)
        verdict = judge_records(evidence.told, arrived,
                                possible=set(evidence.told) - evidence.owed_records)
        for kind in ("produced", "delivered", "lost", "duplicated", "reordered", "invented"):
            self.measured[kind] += getattr(verdict, kind)
        self.measured["records"] = verdict.produced
        on_wire = evidence.sights.records()
        by_text = {str(name): name for name in [*evidence.told, *arrived]}
        for offence in verdict.offences:
            name = by_text[offence.what]
            self.blame(offence.kind, name, self._why_record(offence.kind, name, on_wire.get(name)),
                       evidence.told.get(name, 0))
        for name, t_ns in evidence.told.items():
            if name in first:
                if t_ns < evidence.healed_ns:
                    self._last_ns = max(self._last_ns, first[name].t_ns)
                sights = evidence.sights.seen.get(first[name].message)
                self._stages(t_ns, evidence.promises.acked_ns(name),
                             sights[0].times_ns[0] if sights else 0, first[name].t_ns)

    def _why_record(self, kind: str, name: Record, sent: Message | None) -> str:
        if kind == "lost" and not self.evidence.promises.acked_ns(name):
            return "the gateway never acknowledged it; the board holds it, or lost it"
        return self._why(kind, sent or Message("", b""), 1)

    def _time_of(self, name: Record, arrival: Arrival) -> None:
        """Compare the time in a record with when its board told of it; null is no lie."""
        told_ns = self.evidence.told.get(name)
        at = arrival.payload.find(b'"time":"')
        if told_ns is None or at < 0:
            return
        text = arrival.payload[at + 8 :].partition(b'"')[0].decode()
        true_s = told_ns / 1e9 + self.evidence.wall_offset_s
        try:
            off_s = datetime.fromisoformat(text).timestamp() - true_s
        except ValueError:
            off_s = float("inf")
        if abs(off_s) > CLOCK_S:
            self.measured["wrong_time"] += 1
            self.blame("wrong_time", name, f"it says {text}, {off_s:.0f} s off")

    def finish(self, expectations: Iterable[Expectation]) -> Judgement:
        """Sum up."""
        end_to_end = self.stages[STAGES[3]].summary()
        for name in TIMES[:4]:
            self.measured[name] = end_to_end[name]
        healed_ns = self.evidence.healed_ns
        self.measured["drain_s"] = (self._last_ns - healed_ns) / 1e9 if healed_ns else 0.0
        invalid = list(self.evidence.invalid)
        if not self.measured["produced"]:
            invalid.append("nothing was owed")
        told = [(str(one), one.holds(self.measured)) for one in expectations]
        passed = all(holds for _, holds in told)
        outcome = "INVALID" if invalid else "PASS" if passed else "FAIL"
        return Judgement(outcome, self.measured, told, self.offences, invalid, self.stages)


def judge(evidence: Evidence, expectations: Iterable[Expectation]) -> Judgement:
    """Judge a run by what was seen of it."""
    judge = _Judge(evidence)
    judge.messages()
    judge.records()
    judge.wills()
    return judge.finish(expectations)
