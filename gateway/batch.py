"""What one commit changes, and what many of them come to. No I/O.

A `Batch` is gathered on the event loop. Its `Change` is the same as plain values: that is what the
journal holds. `Pending` folds changes into their net effect, which is all that the database ever
sees: a message that was delivered meanwhile is not in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import msgspec
from msgspec import Struct, field

from gateway.wire import Publish
from gateway.zeros import Key, Saved

LANE_SHIFT = 56
ID_MASK = (1 << LANE_SHIFT) - 1
ROW_OVERHEAD_BYTES = 48  # what a row costs beside its texts and payload, for the cap
# Entry.size() of a row, in SQL
SIZE = "(length(payload) + length(topic) + length(source) + length(route)" \
       f" + {ROW_OVERHEAD_BYTES})"

# key, mid, qos, retain, age_s, route, source, topic, payload
Row = tuple[int, int, int, bool, int, str, str, str, bytes]
Run = tuple[int, int]  # of keys, first and last


class Entry(Struct, gc=False):
    """One message on its way upstream.

    key: lane and id. mid: packet identifier, 0 where it has none (yet, or at QoS 0). age_s: the
    outbox's own clock when it came, see `Outbox.clock_s`. route: the route's filter. source: whose
    order it belongs to. tries: how often the link was lost over it. sent_s: when it was sent on
    this connection, 0 for not yet. taken: its PUBREC came, `released` is on its way to the disk.
    dup: an earlier connection of this session may have brought it. order: its number among all
    that were sent, by when it was first sent; 0 for before this start.
    """

    key: int
    mid: int
    qos: int
    retain: bool
    released: bool
    age_s: int
    route: str
    source: str
    topic: str
    payload: bytes
    sent: bool = False
    tries: int = 0
    sent_s: float = 0.0
    taken: bool = False
    dup: bool = False
    order: int = 0

    @property
    def lane(self) -> int:
        return self.key >> LANE_SHIFT

    def row(self) -> Row:
        return (self.key, self.mid, self.qos, self.retain, self.age_s, self.route, self.source,
                self.topic, self.payload)

    def size(self) -> int:
        """Bytes it takes of the outbox's cap."""
        return len(self.payload) + len(self.topic) + len(self.source) + len(self.route) \
            + ROW_OVERHEAD_BYTES


def in_lane(lane: int, key: int) -> int:
    """The key of the same message in another lane."""
    return lane << LANE_SHIFT | (key & ID_MASK)


class Batch(Struct):
    """Everything one commit changes. None as a value means: delete; so does 0 in `seen`.

    late: of `insert`, those that go upstream only after the commit.
    """

    insert: list[Entry] = field(default_factory=list)
    late: list[Entry] = field(default_factory=list)
    release: list[Entry] = field(default_factory=list)
    done: list[Entry] = field(default_factory=list)
    moved: list[tuple[int, int, int]] = field(default_factory=list)  # (old key, new key, mid)
    drop: list[int] = field(default_factory=list)  # keys
    seen: dict[Key, int] = field(default_factory=dict)
    retained: dict[str, Publish | None] = field(default_factory=dict)
    wills: dict[str, Publish | None] = field(default_factory=dict)
    received: dict[tuple[str, int], bool | None] = field(default_factory=dict)
    zeros: dict[Key, Saved | None] = field(default_factory=dict)

    def empty(self) -> bool:
        return not (self.insert or self.release or self.done or self.moved or self.drop
                    or self.seen or self.retained or self.wills or self.received or self.zeros)

    def change(self) -> Change:
        """The same as plain values."""
        change = Change([entry.row() for entry in self.insert])
        if self.release:
            change.released = runs(entry.key for entry in self.release)
        if self.done or self.drop:
            change.ended = runs([*(entry.key for entry in self.done), *self.drop])
        change.moved = self.moved
        change.seen = [(*key, seq) for key, seq in self.seen.items()]
        change.retained = [(topic, None if m is None else (m.qos, m.payload))
                           for topic, m in self.retained.items()]
        change.wills = [(client, None if w is None else (w.topic, w.qos, w.retain, w.payload))
                        for client, w in self.wills.items()]
        change.received = [(client, mid, bool(there))
                           for (client, mid), there in self.received.items()]
        change.zeros = [(*key, saved) for key, saved in self.zeros.items()]
        return change


class Change(Struct, array_like=True):
    """A batch in the journal, or that the upstream forgot us, which no batch says. Runs are of
    keys that were all there, first and last included."""

    rows: list[Row]
    released: list[Run] = []
    ended: list[Run] = []
    moved: list[tuple[int, int, int]] = []
    seen: list[tuple[str, str, int, int]] = []
    retained: list[tuple[str, tuple[int, bytes] | None]] = []
    wills: list[tuple[str, tuple[str, int, bool, bytes] | None]] = []
    received: list[tuple[str, int, bool]] = []
    forgotten: bool = False  # the upstream holds nothing of ours from before this outbox
    zeros: list[tuple[str, str, int, Saved | None]] = []

    def settles(self) -> bool:
        """Whether it only says what became of messages that are there."""
        return not (self.rows or self.seen or self.retained or self.wills or self.received
                    or self.forgotten or self.zeros)


encode = msgspec.msgpack.Encoder().encode
decode = msgspec.msgpack.Decoder(Change).decode  # raises msgspec.MsgspecError


class Pending:
    """The net effect of changes that the database does not have yet.

    rows: by key. released: keys, of rows here or in the database. ended: keys to delete there.
    moved: of rows there, old key → new key and packet identifier (the two keys are one where it
    only got its identifier). The rest: the newest value.
    """

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self.released: set[int] = set()
        self.ended: set[int] = set()
        self.moved: dict[int, tuple[int, int]] = {}
        self.seen: dict[Key, int] = {}
        self.retained: dict[str, tuple[int, bytes] | None] = {}
        self.wills: dict[str, tuple[str, int, bool, bytes] | None] = {}
        self.received: dict[tuple[str, int], bool] = {}
        self.zeros: dict[Key, Saved | None] = {}
        self._old_keys: dict[int, int] = {}  # of `moved`, by new key

    def copy(self) -> Pending:
        """Another of the same, to be tried."""
        made = Pending()
        for name, value in vars(self).items():
            setattr(made, name, value.copy())
        return made

    def fold(self, change: Change) -> None:
        """Take over one more change."""
        rows = self.rows
        for row in change.rows:
            rows[row[0]] = row
        for first, last in change.released:
            self.released.update(range(first, last + 1))
        for first, last in change.ended:
            self.released.difference_update(range(first, last + 1))
            for key in range(first, last + 1):
                if key in rows:
                    del rows[key]
                else:
                    old = self._old_keys.pop(key, key)
                    self.moved.pop(old, None)
                    # A move that failed in part, and was tried again, may be in the database.
                    self.ended.update((old, key))
        for key, new, mid in change.moved:
            if key in rows:
                rows[new] = (new, mid, *rows.pop(key)[2:])
            else:
                old = self._old_keys.pop(key, key)
                self.moved[old] = (new, mid)
                self._old_keys[new] = old
        self.seen.update({(device, life, boot): seq for device, life, boot, seq in change.seen})
        self.retained.update(change.retained)
        self.wills.update(change.wills)
        self.received.update({(client, mid): there for client, mid, there in change.received})
        self.zeros.update({(device, life, boot): saved
                           for device, life, boot, saved in change.zeros})

    def split(self, change: Change) -> tuple[Change, Change]:
        """Of a change that settles: what the database can take as it stands, with the keys that it
        has there, and what is of rows that only the journal has."""
        rows, old = self.rows, self._old_keys
        ended = [key for first, last in change.ended for key in range(first, last + 1)]
        # All that is released, so that the runs in the database grow instead of their number.
        released = self.released.union(*(range(a, b + 1) for a, b in change.released)) \
            if change.released else ()
        there = Change([], runs(released), runs(old.get(k, k) for k in ended if k not in rows),
                       [(old.get(k, k), new, mid) for k, new, mid in change.moved
                        if k not in rows])
        return there, Change([], [], runs(k for k in ended if k in rows),
                             [move for move in change.moved if move[0] in rows])

    def settled(self, most: int) -> Iterator[Change]:
        """What became of rows that the database has, about so many of them at a time."""
        ended = sorted(self.ended)
        for at in range(0, len(ended), most):
            yield Change([], ended=runs(ended[at:at + most]))
        moved = [(old, new, mid) for old, (new, mid) in self.moved.items()]
        for at in range(0, len(moved), most):
            yield Change([], moved=moved[at:at + most])

    def took(self, there: Change) -> None:
        """The database has what `split` said it can take."""
        self.fold(Change([], there.released, there.ended))
        for key, _, _ in there.moved:
            if (had := self.moved.pop(key, None)) is not None:
                self._old_keys.pop(had[0], None)

    def touches(self, key: int) -> bool:
        """Whether the row of the database with this key is no longer as it stands there."""
        return key in self.ended or key in self.moved

    def __bool__(self) -> bool:
        return bool(self.rows or self.released or self.ended or self.moved or self.seen
                    or self.retained or self.wills or self.received or self.zeros)


def runs(keys: Iterable[int]) -> list[Run]:
    """Keys as inclusive runs: in-order traffic becomes one."""
    ordered = sorted(keys)
    found: list[Run] = []
    if not ordered:
        return found
    first = last = ordered[0]
    for key in ordered[1:]:
        if key != last + 1:
            found.append((first, last))
            first = key
        last = key
    found.append((first, last))
    return found
