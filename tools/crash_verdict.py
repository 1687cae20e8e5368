"""What a crash run comes to: lost, doubled, out of order, and whose doing it was. Pure.

Rules:
- *Lost*: owed (acknowledged to its device) and never arrived.
- *Doubled*, where the message goes at QoS 2: it arrived more often than its device sent it. A
  plain QoS 1 device that sends again after a lost PUBACK doubles by MQTT's own rule; a contract
  device has no such excuse, and one that publishes at QoS 2 only where the gateway said that its
  session is gone and it had no PUBREC (*again by the sender*). At QoS 1 the last leg may double.
- *Reordered*: the first arrival after that of a later message of its stream; or the first PUBLISH
  between gateway and upstream after that of a later one.
- *The upstream's own doing* is only what the wire shows: it had taken the message (PUBACK or
  PUBREC was seen), or it was released to it no more often than allowed, and it was killed
  (SIGKILL) about then. An upstream that was only restarted is excused nothing.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields

from tools.crash_devices import Key, Line
from tools.crash_subscriber import Arrival
from tools.crash_wire import Exchange

SAVE_S = 3.0
"""A killed upstream may have forgotten what it did so long [s] before (it saves each second)."""
NAMED = 4
"""How many offences of a kind a round names; all of them are counted."""


@dataclass(frozen=True, slots=True)
class Stream:
    """What one device is judged by; see tools.crash_devices.Device."""

    ledger: Mapping[Key, Line]
    exact: bool
    min_qos: int


@dataclass
class Tally:
    """Counts of messages; the first offences by name."""

    sent: int = 0
    owed: int = 0
    delivered: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    invented: int = 0
    wrong_qos: int = 0
    lost_wills: int = 0
    other: int = 0
    again_by_sender: int = 0
    again_at_qos1: int = 0
    forgotten_by_upstream: int = 0
    doubled_by_upstream: int = 0
    reordered_by_upstream: int = 0
    offences: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether something was owed and the gateway did nothing wrong."""
        return self.owed > 0 and not (self.lost or self.duplicated or self.reordered
                                      or self.invented or self.wrong_qos or self.lost_wills
                                      or self.other)

    def blame(self, kind: str, what: object) -> None:
        """Count an offence and name it."""
        setattr(self, kind, getattr(self, kind) + 1)
        if getattr(self, kind) <= NAMED:
            self.offences.append(f"{kind}: {what}")

    def add(self, more: Tally) -> None:
        """Add another round's."""
        for item in fields(self):
            if item.name != "offences":
                mine, theirs = getattr(self, item.name), getattr(more, item.name)
                setattr(self, item.name, mine + theirs)
        self.offences += more.offences

    def as_dict(self) -> dict[str, object]:
        """Everything, for JSON."""
        return {"passed": self.passed, **asdict(self)}


class Judge:
    """Judges one round.

    blind: from the kill of the upstream to the subscriber's return, each [s].
    """

    def __init__(self, streams: Mapping[str, Stream], arrivals: Sequence[Arrival],
                 exchanges: Mapping[Key, Sequence[Exchange]], order: Mapping[str, Sequence[Key]],
                 blind: Sequence[tuple[float, float]]) -> None:
        self._streams, self._arrivals = streams, arrivals
        self._exchanges, self._order, self._blind = exchanges, order, blind

    def verdict(self) -> Tally:
        """Count."""
        tally = Tally()
        by_stream: dict[str, list[Arrival]] = defaultdict(list)
        for arrival in self._arrivals:
            stream = self._streams.get(arrival.key[0])
            if stream is None or arrival.key not in stream.ledger:
                tally.blame("invented", arrival.key)
                continue
            by_stream[arrival.key[0]].append(arrival)
        for name, stream in self._streams.items():
            self._judge(name, stream, by_stream[name], tally)
        return tally

    def _judge(self, name: str, stream: Stream, arrivals: list[Arrival], tally: Tally) -> None:
        self._reordered(name, arrivals, tally)
        times = Counter(arrival.key for arrival in arrivals)
        for arrival in arrivals:
            if arrival.qos != stream.min_qos:
                tally.blame("wrong_qos", f"{arrival.key} came at QoS {arrival.qos}")
        for key, line in stream.ledger.items():
            tally.sent += line.sends > 0
            tally.owed += line.owed
            tally.delivered += key in times
            if key not in times:
                if line.owed:
                    self._lost(key, tally)
            elif times[key] > 1:
                self._doubled(key, line, stream, times[key], arrivals, tally)

    def excused(self, key: Key) -> bool:
        """Whether the upstream took this message and was killed about then."""
        return any(exchange.taken_s and self._near(exchange.first_s, exchange.last_s)
                   for exchange in self._exchanges.get(key, ()))

    def _near(self, first_s: float, last_s: float, after_s: float = 0.5) -> bool:
        return any(last_s >= killed_s - SAVE_S and first_s <= back_s + after_s
                   for killed_s, back_s in self._blind)

    def _lost(self, key: Key, tally: Tally) -> None:
        if self.excused(key):
            tally.forgotten_by_upstream += 1
        else:
            tally.blame("lost", f"{key}, on the wire: {self._story(key)}")

    def _doubled(self, key: Key, line: Line, stream: Stream, times: int,
                 arrivals: Iterable[Arrival], tally: Tally) -> None:
        if stream.min_qos < 2:
            tally.again_at_qos1 += times - 1
            return
        allowed = 1 + line.anew if stream.exact else max(1, line.sends)
        tally.again_by_sender += min(times, allowed) - 1
        if times <= allowed:
            return
        released = sum(exchange.released_s > 0 for exchange in self._exchanges.get(key, ()))
        if released <= allowed and any(self._near(a.t_s, a.t_s, SAVE_S)
                                       for a in arrivals if a.key == key):
            tally.doubled_by_upstream += times - allowed
        else:
            for _ in range(times - allowed):
                tally.blame("duplicated", f"{key} came {times} times, sent {line.sends} times, "
                            f"on the wire: {self._story(key)}")

    def _reordered(self, name: str, arrivals: list[Arrival], tally: Tally) -> None:
        furthest: Key = (name, 0, 0)
        for key in self._order.get(name, ()):
            if key < furthest:
                tally.blame("reordered", f"{key} after {furthest} on the wire")
            furthest = max(furthest, key)
        furthest = (name, 0, 0)
        seen: set[Key] = set()
        for arrival in arrivals:
            if arrival.key in seen:
                continue
            seen.add(arrival.key)
            if arrival.key < furthest:
                if self._near(arrival.t_s, arrival.t_s, SAVE_S):
                    tally.reordered_by_upstream += 1
                else:
                    tally.blame("reordered", f"{arrival.key} after {furthest}, on the wire: "
                                f"{self._story(arrival.key)}; {self._story(furthest)}")
            furthest = max(furthest, arrival.key)

    def _story(self, key: Key) -> str:
        """What the wire saw of a message, for people."""
        told = []
        for exchange in self._exchanges.get(key, ()):
            steps = [f"id {exchange.mid} QoS {exchange.qos} at {exchange.first_s:.3f}"]
            for word, at_s in (("taken", exchange.taken_s), ("released", exchange.released_s),
                               ("ended", exchange.ended_s)):
                if at_s:
                    steps.append(f"{word} {at_s:.3f}")
            told.append(" ".join(steps))
        return " | ".join(told) or "never sent"
