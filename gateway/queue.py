"""What is in the outbox and what may come in: lanes, packet identifiers, caps. No I/O.

A message goes to its route's lane (urgent or live) and stays in memory until it is delivered, as
long as there are at most LIVE_MOST of those. Beyond that, and while its source still has rows in
the backlog, it goes to the backlog lane: on disk only, read back in order. So memory is bounded,
each source's order holds, and a source without a backlog is not behind the others'.
"""

from __future__ import annotations

from collections import Counter
from typing import Protocol

from msgspec import Struct

from gateway.batch import LANE_SHIFT, ROW_OVERHEAD_BYTES, Entry, in_lane
from gateway.outbox import LOAD_BYTES
from gateway.routes import BACKLOG, REFUSED, URGENT, Target
from gateway.start import Start

LIVE_MOST = 4096  # in each of the two lanes
LIVE_MOST_BYTES = 8 * 2**20


class Mids(Protocol):
    """Where packet identifiers come from; see mids.py."""

    def take_mids(self, count: int) -> list[int]: ...
    def free_mids(self, mids: list[int]) -> None: ...


class Waiting(Struct, gc=False):
    """What is known of a row of the backlog that is on disk only. size: bytes, see Entry.size."""

    key: int
    source: str
    size: int


Added = tuple[Entry, Entry | Waiting | None]


class Queue:
    """Accounts of the outbox. The disk follows them, one commit behind."""

    def __init__(self, start: Start, max_bytes: int, mids: Mids) -> None:
        self.max_bytes = max_bytes
        self.used_bytes = start.used_bytes
        self.depth = start.depth
        self.refused = start.refused
        self.dropped: Counter[str] = Counter()  # by reason
        self.backlog = Counter(start.backlog)  # rows by source, in the backlog lane
        loaded = [entry.size() for entry in start.entries if entry.lane == BACKLOG]
        self.unloaded = sum(self.backlog.values()) - len(loaded)
        self.loaded_bytes = sum(loaded)  # of the backlog, in memory or just delivered
        self._mids = mids
        self._next_id = start.next_id
        self._live = [0, 0]  # messages and bytes in memory, by lane
        self._live_bytes = [0, 0]
        for entry in start.entries:
            if entry.lane < BACKLOG:
                self._live[entry.lane] += 1
                self._live_bytes[entry.lane] += entry.size()
        # topic → its newest value that may yet be replaced, where a route wants it
        self._latest: dict[str, Entry | Waiting] = {}
        self._room: list[int] = []

    def full(self, size: int) -> bool:
        """Whether `size` more bytes would be over the cap."""
        return self.used_bytes + size > self.max_bytes

    def tight(self) -> bool:
        """Whether deletes should not wait for other business."""
        return self.used_bytes > self.max_bytes * 0.9 or max(self._live) > LIVE_MOST // 2 \
            or self.loaded_bytes > LOAD_BYTES // 2 or max(self._live_bytes) > LIVE_MOST_BYTES // 2

    def add(self, target: Target, source: str, payload: bytes, qos: int, retain: bool,
            age_s: int, *, force: bool = False) -> Added | None:
        """Make the entry for a message.

        qos: the sender's. force: take it although the outbox is full. Returns the entry and one
        that it replaces (`latest-only`), or None where the outbox is full and the route's policy
        is to take no more.
        """
        route = target.route
        if target.lane == URGENT:
            source += "!"
        size = len(payload) + len(target.topic) + len(source) + len(route.filter) \
            + ROW_OVERHEAD_BYTES
        old = None
        if route.full == "latest-only":
            old = self._latest.pop(target.topic, None)
            if isinstance(old, Entry) and old.sent:
                old = None
        if self.used_bytes + size > self.max_bytes and old is None and not force \
                and route.full != "drop-oldest":
            return None
        lane, qos = target.lane, qos if qos > target.min_qos else target.min_qos
        if route.retain != "as-is":
            retain = route.retain == "always"
        mid = 0
        if self._live[lane] >= LIVE_MOST or self._live_bytes[lane] > LIVE_MOST_BYTES \
                or self.backlog.get(source, 0) or (qos and not (self._room or self._more_room())):
            lane = BACKLOG
            self.backlog[source] += 1
            self.unloaded += 1
        else:
            self._live[lane] += 1
            self._live_bytes[lane] += size
            if qos:
                mid = self._room.pop()
        entry = Entry(lane << LANE_SHIFT | self._next_id, mid, qos, retain, False, age_s,
                      route.filter, source, target.topic, payload)
        self._next_id += 1
        self.used_bytes += size
        self.depth += 1
        if route.full == "latest-only":
            self._latest[target.topic] = entry if lane != BACKLOG else Waiting(
                entry.key, source, size)
        return entry, old

    def _more_room(self) -> bool:
        """Take packet identifiers, some at a time; False where all are in use."""
        self._room = self._mids.take_mids(256)[::-1]
        return bool(self._room)

    def loaded(self, entries: list[Entry], asked: int) -> None:
        """Rows of the backlog came into memory; nothing replaces them any more."""
        self._settle(entries)
        self.unloaded -= len(entries)
        self.loaded_bytes += sum(entry.size() for entry in entries)
        if len(entries) < asked and self.unloaded < 0:
            self.unloaded = 0

    def finished(self, entries: list[Entry]) -> None:
        """The rows of these entries are deleted, and that is on disk."""
        self._mids.free_mids([entry.mid for entry in entries if entry.mid])
        for entry in entries:
            lane, size = entry.key >> LANE_SHIFT, entry.size()
            self._leave(lane, entry.source, size)
            if lane == BACKLOG:
                self.loaded_bytes -= size
        self._settle(entries)

    def dropped_rows(self, rows: list[tuple[int, str, int]], reason: str) -> None:
        """Backlog rows (key, source, bytes) that were never loaded are gone by policy."""
        self.dropped[reason] += len(rows)
        self.unloaded -= len(rows)
        for _, source, size in rows:
            self._leave(BACKLOG, source, size)
        if self._latest and reason == "drop-oldest":  # of a route that was `latest-only` before
            gone = {key for key, _, _ in rows}
            self._latest = {t: old for t, old in self._latest.items() if old.key not in gone}

    def set_aside(self, entry: Entry) -> tuple[int, int, int]:
        """The upstream refuses an entry: move it out of the way; return (old key, new key, the
        packet identifier that stays taken)."""
        self._leave(entry.lane, entry.source, entry.size())
        if entry.lane == BACKLOG:
            self.loaded_bytes -= entry.size()
        self.used_bytes += entry.size()
        self.depth += 1
        self.refused += 1
        self._settle([entry])
        old, entry.key = entry.key, in_lane(REFUSED, entry.key)
        return old, entry.key, entry.mid

    def new_key(self, lane: int) -> int:
        """A key behind all others of a lane, for a message that is there already."""
        self._next_id += 1
        return lane << LANE_SHIFT | (self._next_id - 1)

    def renamed(self, entry: Entry) -> None:
        """An entry has got a new key; nothing replaces it any more."""
        self._settle([entry])

    def _settle(self, entries: list[Entry]) -> None:
        """No newer value of its topic replaces any of these any more."""
        if not self._latest:
            return
        for entry in entries:
            latest = self._latest.get(entry.topic)
            if latest is not None and latest.key == entry.key:
                del self._latest[entry.topic]

    def _leave(self, lane: int, source: str, size: int) -> None:
        self.used_bytes -= size
        self.depth -= 1
        if lane == BACKLOG:
            self.backlog[source] -= 1
            if self.backlog[source] <= 0:
                del self.backlog[source]
        elif lane != REFUSED:
            self._live[lane] -= 1
            self._live_bytes[lane] -= size
