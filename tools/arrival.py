"""What the judge knows a message by: its arrival upstream, and the name of a record in it."""

from __future__ import annotations

import json
from dataclasses import dataclass

from tools.verdict import Message, Record


@dataclass(frozen=True, slots=True)
class Arrival:
    """One message as the subscriber got it; t_ns is monotonic."""

    t_ns: int
    topic: str
    payload: bytes
    qos: int
    retain: bool

    @property
    def message(self) -> Message:
        """The message by its content."""
        return Message(self.topic, self.payload)


def record_of(payload: bytes) -> Record | None:
    """Return the name of an upstream record (docs/contract.md), None for anything else."""
    try:
        data = json.loads(payload)
        return Record(data["device"], data["life"], int(data["boot"]), int(data["seq"]))
    except (ValueError, TypeError, KeyError):
        return None


def told_record(device: str, line: str) -> Record | None:
    """Return the record that a board's console tells of: `rec <life> <boot> <seq>`."""
    words = line.split()
    if len(words) != 4 or words[0] != "rec":
        return None
    try:
        return Record(device, words[1], int(words[2]), int(words[3]))
    except ValueError:
        return None
