"""What was lost, doubled or out of order: the judgement alone, without any network.

Rules:
- A *stream* is what keeps its own order: a device, or a topic of foreign traffic.
- A message that was *owed* and never arrived is **lost**. One that is merely *possible* (sent,
  but its sender was never told that it is safe) may arrive or not.
- Each arrival after the first of the same message is **duplicated**.
- A first arrival is **reordered** where a later message of its stream had arrived before it.
- An arrival that nobody sent is **invented**; it makes the verdict FAIL like the rest.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Kind = Literal["lost", "duplicated", "reordered", "invented"]
UNTOLD = 16
"""How many records a board may write before it tells of them: one commit of its ring."""
NAMED = 10
"""How many offences a verdict names; all of them are counted."""


class Record(NamedTuple):
    """The name of a record, as docs/contract.md defines it."""

    device: str
    life: str
    boot: int
    seq: int

    def __str__(self) -> str:
        return f"{self.device} life {self.life} boot {self.boot} seq {self.seq}"


class Offence(NamedTuple):
    """One message that did not arrive as it should have."""

    kind: Kind
    what: str


@dataclass
class Verdict:
    """Counts of all messages, and the first offences by name."""

    produced: int = 0
    delivered: int = 0
    lost: int = 0
    duplicated: int = 0
    reordered: int = 0
    invented: int = 0
    offences: list[Offence] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether something was produced and nothing went wrong with it."""
        wrong = self.lost or self.duplicated or self.reordered or self.invented
        return self.produced > 0 and not wrong

    @property
    def line(self) -> str:
        """The verdict in one line, for people and for scripts."""
        counts = (
            f"produced={self.produced} delivered={self.delivered} lost={self.lost} "
            f"duplicated={self.duplicated} reordered={self.reordered}"
        )
        more = f" invented={self.invented}" if self.invented else ""
        return f"verdict: {'PASS' if self.passed else 'FAIL'} {counts}{more}"

    def add(self, other: Verdict) -> None:
        """Add the counts and the offences of another stream."""
        self.produced += other.produced
        self.delivered += other.delivered
        self.lost += other.lost
        self.duplicated += other.duplicated
        self.reordered += other.reordered
        self.invented += other.invented
        self.offences += other.offences[: max(0, NAMED - len(self.offences))]

    def _note(self, kind: Kind, what: object) -> None:
        if len(self.offences) < NAMED:
            self.offences.append(Offence(kind, str(what)))


def judge_stream(
    sent: Sequence[Hashable],
    arrived: Iterable[Hashable],
    *,
    possible: Set[Hashable] = frozenset(),
) -> Verdict:
    """Judge one stream: `sent` in order and each once, `arrived` as it came.

    possible: those of `sent` that are not owed. They count as produced only where they arrived.
    """
    place = {message: index for index, message in enumerate(sent)}
    if len(place) != len(sent):
        raise ValueError("a message was sent twice under one name")
    verdict = Verdict()
    seen: set[Hashable] = set()
    furthest = -1
    for message in arrived:
        index = place.get(message)
        if index is None:
            verdict.invented += 1
            verdict._note("invented", message)
        elif message in seen:
            verdict.duplicated += 1
            verdict._note("duplicated", message)
        else:
            seen.add(message)
            verdict.delivered += 1
            if index < furthest:
                verdict.reordered += 1
                verdict._note("reordered", message)
            furthest = max(furthest, index)
    for message in sent:
        if message in seen:
            verdict.produced += 1
        elif message not in possible:
            verdict.produced += 1
            verdict.lost += 1
            verdict._note("lost", message)
    return verdict


def judge_records(
    told: Iterable[Record],
    arrived: Iterable[Record],
    *,
    possible: Set[Record] = frozenset(),
) -> Verdict:
    """Judge the records of our devices: `told` by the boards' consoles, `arrived` upstream.

    possible: those of `told` that are not owed, see judge_stream.

    A board writes some records and then tells of them. Where its power goes in between they
    travel though it never told of them: they can only be the next few after the last that this
    boot told of. They are let pass and neither counted as produced nor as delivered, since
    nobody but the gateway vouches for them. Any other that was not told of is invented.
    """
    by_device: dict[str, list[Record]] = defaultdict(list)
    last: dict[tuple[str, str, int], int] = {}
    for record in told:
        by_device[record.device].append(record)
        key = record[:3]
        last[key] = max(last.get(key, 0), record.seq)
    came: dict[str, list[Record]] = defaultdict(list)
    for record in arrived:
        came[record.device].append(record)
    total = Verdict()
    for device in sorted(by_device.keys() | came.keys()):
        sent = by_device[device]
        known = set(sent)
        untold = {
            record
            for record in came[device]
            if record not in known and 0 < record.seq - last.get(record[:3], 0) <= UNTOLD
        }
        lives = {record.life: index for index, record in reversed(list(enumerate(sent)))}
        ordered = sorted(
            [*sent, *untold],
            key=lambda record: (lives.get(record.life, len(sent)), record.boot, record.seq),
        )
        verdict = judge_stream(ordered, came[device], possible=untold | possible)
        verdict.produced -= len(untold)
        verdict.delivered -= len(untold)
        total.add(verdict)
    return total


class Message(NamedTuple):
    """A message of foreign traffic, known by its content."""

    topic: str
    payload: bytes

    def __str__(self) -> str:
        try:
            return f"{self.topic} {self.payload.decode()[:40]!r}"
        except UnicodeDecodeError:
            return f"{self.topic} 0x{self.payload[:20].hex()}"


class Occurrence(NamedTuple):
    """The n-th (from 1) time that the same content was sent or arrived."""

    message: Message
    n: int

    def __str__(self) -> str:
        return str(self.message) if self.n == 1 else f"{self.message} (number {self.n})"


def judge_messages(
    sent: Mapping[str, Sequence[tuple[Message, bool]]],
    arrived: Mapping[str, Sequence[Message]],
) -> Verdict:
    """Judge foreign traffic, stream by stream, by content.

    sent: by stream, in order, each message and whether it is owed (its PUBACK came). The same
    content twice is two messages; which of two equal ones was lost cannot be told, so it is
    always the later one, and an arrival beyond the number sent is a duplicate.
    """
    total = Verdict()
    for stream in sorted(sent.keys() | arrived.keys()):
        names = _number([message for message, _ in sent.get(stream, ())])
        possible = {
            name for name, (_, owed) in zip(names, sent.get(stream, ()), strict=True) if not owed
        }
        counts = Counter(message for message, _ in sent.get(stream, ()))
        came = [
            name if name.n <= counts[name.message] else _again(name, counts)
            for name in _number(arrived.get(stream, ()))
        ]
        total.add(judge_stream(names, came, possible=possible))
    return total


def _number(messages: Iterable[Message]) -> list[Occurrence]:
    counts: Counter[Message] = Counter()
    names = []
    for message in messages:
        counts[message] += 1
        names.append(Occurrence(message, counts[message]))
    return names


def _again(name: Occurrence, counts: Counter[Message]) -> Occurrence:
    """Name an arrival beyond the number sent after the last that was sent: a duplicate of it."""
    return Occurrence(name.message, counts[name.message]) if counts[name.message] else name
