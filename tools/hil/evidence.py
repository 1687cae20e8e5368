"""What a verdict is made from. Times are monotonic [ns]."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tools.arrival import Arrival
from tools.hil.actor import Item
from tools.hil.sights import Promises, Sights
from tools.verdict import Message, Record


@dataclass(frozen=True)
class WillOwed:
    """How often a client's will may arrive."""

    client: str
    message: Message
    least: int
    most: int


@dataclass
class Evidence:
    """All that was seen of a run. Times are monotonic [ns]. told: a board's record → when.

    owed_records: those of `told` that must arrive. wall_offset_s: wall clock less monotonic.
    invalid: why the run cannot be judged. measured: further numbers, see SEEN.
    """

    began_ns: int
    items: Sequence[Item]
    arrivals: Sequence[Arrival]
    sights: Sights
    upgrade: int = 0
    told: Mapping[Record, int] = field(default_factory=dict)
    owed_records: frozenset[Record] = frozenset()
    wills: Sequence[WillOwed] = ()
    healed_ns: int = 0
    wall_offset_s: float = 0.0
    invalid: list[str] = field(default_factory=list)
    measured: dict[str, float] = field(default_factory=dict)
    promises: Promises = field(default_factory=Promises)
