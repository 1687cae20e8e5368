"""What a crash run comes to: lost, doubled, out of order, and whose doing it was. Pure.

Rules:
- *Lost*: owed (acknowledged to its device) and never arrived.
- *Doubled*, where the message goes at QoS 2: it arrived more often than its device sent it. A
  plain QoS 1 device that sends again after a lost PUBACK doubles by MQTT's own rule; a contract
  device has no such excuse, and one that publishes at QoS 2 only where the gateway said that its
  session is gone and it had no PUBREC (*again by the sender*). At QoS 1 the last leg may double.
- *Reordered*: the first arrival after that of a later message of its stream; or the first PUBLISH
  between gateway and upstream after that of a later one.
- *The upstream's own doing* is only what the wire and the upstream's files show: it had ended the
  message's exchange (PUBACK or PUBCOMP was seen), or handed it out, later than what it had saved
  when it was killed (SIGKILL). A fixed time would not do: one without persistence forgets all of
  its life. An upstream that was only restarted is excused nothing.
- *After a lost session*: the exchange was open, or had just ended, when the upstream answered
  with session present 0. Sent anew the message may double; with `after_lost_session = "drop"`, and
  only then, one that had its PUBREC may be missing. Counted as that, neither lost nor doubled.
- *Falsely refused*: set aside by the gateway, where the upstream refuses nothing for good.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from itertools import pairwise
from typing import Literal

from tools.crash_devices import Key, Line
from tools.crash_subscriber import Arrival, Outage
from tools.crash_wire import Exchange

WRITE_S = 0.5
"""How long [s] an upstream writes at what it saves; what comes meanwhile waits in its socket."""
AfterLostSession = Literal["resend", "drop"]


@dataclass(frozen=True, slots=True)
class Stream:
    """What one device is judged by; see tools.crash_devices.Device."""

    ledger: Mapping[Key, Line]
    exact: bool
    min_qos: int


@dataclass
class Tally:
    """Counts of messages; every offence by name."""

    sent: int = 0
    owed: int = 0
    delivered: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    invented: int = 0
    wrong_qos: int = 0
    lost_wills: int = 0
    falsely_refused: int = 0
    other: int = 0
    after_lost_session_doubled: int = 0
    after_lost_session_lost: int = 0
    after_lost_session_reordered: int = 0
    reordered_after_refusal: int = 0
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
                                      or self.falsely_refused or self.other)

    def blame(self, kind: str, what: object) -> None:
        """Count an offence and name it."""
        setattr(self, kind, getattr(self, kind) + 1)
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
    """Judges one round. after_lost_session: what the gateway was told to do."""

    def __init__(self, streams: Mapping[str, Stream], arrivals: Sequence[Arrival],
                 exchanges: Mapping[Key, Sequence[Exchange]], order: Mapping[str, Sequence[Key]],
                 outages: Sequence[Outage],
                 after_lost_session: AfterLostSession = "resend") -> None:
        self._streams, self._arrivals = streams, arrivals
        self._exchanges, self._order, self._outages = exchanges, order, outages
        self._may_drop = after_lost_session == "drop"

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
        """Whether nobody can ask the gateway for this message any more."""
        return self._forgotten(key) or self._dropped(key)

    def _forgotten(self, key: Key) -> bool:
        """Whether the upstream had all of it, and was killed before it had saved that."""
        last = self._last(key)
        return last is not None and last.ended_s > 0 and self._under_way(last)

    def _dropped(self, key: Key) -> bool:
        """Whether it was the upstream's, by its PUBREC, when the upstream lost the session, and
        the gateway was told not to send such a one anew."""
        last = self._last(key)
        return self._may_drop and last is not None and bool(last.taken_s and last.lost_s)

    def _last(self, key: Key) -> Exchange | None:
        found = self._exchanges.get(key, ())
        return found[-1] if found else None

    def _under_way(self, exchange: Exchange, until_s: float = math.inf) -> bool:
        """Whether the upstream, killed before until_s [s], may not remember something of it."""
        return any(outage.killed_s <= until_s
                   and exchange.heard(outage.saved_s - WRITE_S, outage.back_s)
                   for outage in self._outages)

    def _lost(self, key: Key, tally: Tally) -> None:
        if self._forgotten(key):
            tally.forgotten_by_upstream += 1
        elif self._dropped(key):
            tally.after_lost_session_lost += 1
        else:
            tally.blame("lost", f"{key}, on the wire: {self._story(key)}")

    def _doubled(self, key: Key, line: Line, stream: Stream, times: int,
                 arrivals: Iterable[Arrival], tally: Tally) -> None:
        if stream.min_qos < 2:
            tally.again_at_qos1 += times - 1
            return
        allowed = 1 + line.anew if stream.exact else max(1, line.sends)
        tally.again_by_sender += min(times, allowed) - 1
        more = times - allowed
        if more <= 0:
            return
        resent = sum(e.lost_s > 0 for e in self._exchanges.get(key, ())[:-1])
        tally.after_lost_session_doubled += min(more, resent)
        more -= min(more, resent)
        redelivered = self._redelivered([a for a in arrivals if a.key == key])
        tally.doubled_by_upstream += min(more, redelivered)
        for _ in range(more - min(more, redelivered)):
            tally.blame("duplicated", f"{key} came {times} times, sent {line.sends} times, "
                        f"on the wire: {self._story(key)}")

    def _redelivered(self, arrivals: list[Arrival]) -> int:
        """How often one that saves handed out again what it had not saved that it had."""
        return sum(any(outage.killed_s <= second.t_s and first.t_s <= outage.back_s
                       and -math.inf < outage.saved_s - WRITE_S <= (first.done_s or math.inf)
                       for outage in self._outages)
                   for first, second in pairwise(arrivals))

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
                self._late(arrival, furthest, tally)
            furthest = max(furthest, arrival.key)

    def _late(self, arrival: Arrival, furthest: Key, tally: Tally) -> None:
        exchanges = self._exchanges.get(arrival.key, ())
        if any(e.lost_s for e in exchanges):
            tally.after_lost_session_reordered += 1
        elif any(e.refused for e in exchanges):
            tally.reordered_after_refusal += 1
        elif any(self._under_way(e, arrival.t_s) for e in exchanges):
            tally.reordered_by_upstream += 1
        else:
            tally.blame("reordered", f"{arrival.key} after {furthest}, on the wire: "
                        f"{self._story(arrival.key)}; {self._story(furthest)}")

    def _story(self, key: Key) -> str:
        """What the wire saw of a message, for people."""
        told = []
        for exchange in self._exchanges.get(key, ()):
            steps = [f"id {exchange.mid} QoS {exchange.qos} at {exchange.first_s:.3f}"]
            for word, at_s in (("taken", exchange.taken_s), ("released", exchange.released_s),
                               ("ended", exchange.ended_s), ("lost", exchange.lost_s)):
                if at_s:
                    steps.append(f"{word} {at_s:.3f}")
            if exchange.refused:
                steps.append(f"refused {exchange.refused:#x}")
            if exchange.again_s:
                steps.append(f"heard of {len(exchange.again_s)} times more, last at "
                             f"{exchange.again_s[-1]:.3f}")
            told.append(" ".join(steps))
        return " | ".join(told) or "never sent"
