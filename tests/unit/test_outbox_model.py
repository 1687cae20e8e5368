"""gateway/outbox.py against a dictionary: whatever is committed, flushed, loaded and crashed in
whatever order, on a disk that now and then says it could not sync what it has, the outbox holds
the same."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from outboxes import SMALL, LostSync

from gateway.batch import LANE_SHIFT, Batch, Entry
from gateway.errors import OutboxError
from gateway.journal import PAGE
from gateway.outbox import Outbox
from gateway.routes import BACKLOG, LIVE, REFUSED
from gateway.wire import Publish

MASK = (1 << LANE_SHIFT) - 1
T = TypeVar("T")
sizes = st.sampled_from([0, 30, 4000, 6 * PAGE])


class OutboxMachine(RuleBasedStateMachine):
    """Entries are shared with the outbox only as the gateway shares them: through batches."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "outbox.db"
        self.outbox = Outbox(self.path, SMALL)
        self.disk = LostSync(self.outbox)
        self.held: dict[int, Entry] = {}
        self.next_id, self.loaded = 1, 0
        self.seen: dict[tuple[str, str, int], int] = {}
        self.retained: dict[str, Publish] = {}
        self.received: set[int] = set()

    def _pick(self, data: st.DataObject, entries: list[Entry]) -> list[Entry]:
        return data.draw(st.lists(st.sampled_from(entries), unique_by=lambda e: e.key)) \
            if entries else []

    def _do(self, job: Callable[[], T]) -> T:
        """As the gateway does: try again, until the disk is well."""
        try:
            return job()
        except OutboxError:
            assert self.disk.failing
            self.disk.failing = False
            return job()

    @rule(lanes=st.lists(st.sampled_from([LIVE, BACKLOG]), max_size=6), size=sizes,
          seq=st.integers(0, 9), data=st.data())
    def commit(self, lanes: list[int], size: int, seq: int, data: st.DataObject) -> None:
        batch = Batch()
        for lane in lanes:
            mid = self.next_id if lane == LIVE else 0
            batch.insert.append(Entry(lane << LANE_SHIFT | self.next_id, mid, self.next_id % 2 + 1,
                                      False, False, 3, "#", "dev", "t", bytes(size)))
            self.next_id += 1
        sent = [e for e in self.held.values() if e.mid and e.key >> LANE_SHIFT != REFUSED]
        batch.release = [e for e in self._pick(data, sent) if not e.released]
        waiting = [e for e in sent if e not in batch.release]
        batch.done = self._pick(data, waiting)
        fresh = [e for e in self.held.values() if not e.mid and e.key > self.loaded]
        batch.drop = [e.key for e in self._pick(data, fresh)]
        batch.seen["dev", "life", seq % 3] = seq
        topic, mid = f"r{seq % 3}", seq % 4 + 1
        batch.retained[topic] = Publish(topic, b"%d" % seq, 1, True, False, 0) if seq % 2 else None
        batch.received["dev", mid] = True if seq % 2 else None
        self._do(lambda: self.outbox.apply(batch))
        for entry in batch.insert:
            self.held[entry.key] = entry
        for entry in batch.release:
            entry.released = True
        for key in [*(e.key for e in batch.done), *batch.drop]:
            del self.held[key]
        self.seen |= batch.seen  # 0 forgets
        self.retained.pop(topic, None)
        self.received.discard(mid)
        if seq % 2:
            self.received.add(mid)
            self.retained |= {t: m for t, m in batch.retained.items() if m is not None}

    @rule(data=st.data(), keep=st.booleans())
    def set_aside(self, data: st.DataObject, keep: bool) -> None:
        sent = [e for e in self.held.values()
                if e.mid and not e.released and e.key >> LANE_SHIFT != REFUSED]
        for entry in self._pick(data, sent)[:1]:
            old, entry.key = entry.key, REFUSED << LANE_SHIFT | entry.key & MASK
            entry.mid = entry.mid if keep else 0
            self.outbox.apply(Batch(moved=[(old, entry.key, entry.mid)]))
            del self.held[old]
            self.held[entry.key] = entry

    @rule(limit=st.integers(1, 5))
    def load(self, limit: int) -> None:
        mids = [60_000 - self.next_id - n for n in range(limit)]
        self.next_id += limit
        waiting = sorted(e.key for e in self.held.values()
                         if e.key >> LANE_SHIFT == BACKLOG and e.key > self.loaded and not e.mid)
        found = self._do(lambda: self.outbox.load(self.loaded, limit, mids))
        keys = [e.key for e in found]
        if self.disk.failing:  # the database's first; what only the journal has, with the next
            assert keys == waiting[:len(keys)]
            assert keys or not waiting
        else:
            assert keys == waiting[:limit]
        for entry in found:
            self.held[entry.key].mid = entry.mid
            self.loaded = entry.key

    @rule()
    def sync_fails(self) -> None:
        self.disk.failing = True
        self.flush()

    @rule()
    def flush(self) -> None:
        try:
            self.outbox.flush()
        except OutboxError:
            assert self.disk.failing

    @rule(clean=st.booleans())
    def restart(self, clean: bool) -> None:
        if clean:
            self.outbox.close()
        else:  # as kill -9 leaves it
            self.outbox._db.close()
            self.outbox.journal.close()
        self.outbox = Outbox(self.path, SMALL)
        self.disk = LostSync(self.outbox)
        assert self.outbox.set_aside is None

    @invariant()
    def holds_the_same(self) -> None:
        start = self.outbox.start()
        backlog = [e for e in self.held.values() if e.key >> LANE_SHIFT == BACKLOG]
        wanted = sorted((e for e in self.held.values() if e.key >> LANE_SHIFT < BACKLOG or e.mid),
                        key=lambda e: e.key)
        assert [(e.key, e.mid, e.released, len(e.payload)) for e in start.entries] == [
            (e.key, e.mid, e.released, len(e.payload)) for e in wanted]
        assert start.depth == len(self.held)
        assert start.used_bytes == sum(e.size() for e in self.held.values())
        assert start.backlog == ({"dev": len(backlog)} if backlog else {})
        assert start.refused == sum(e.key >> LANE_SHIFT == REFUSED for e in self.held.values())
        assert start.seen == {key: seq for key, seq in self.seen.items() if seq}
        assert start.retained == self.retained
        assert start.received == ({"dev": self.received} if self.received else {})
        assert start.next_id > max((e.key & MASK for e in self.held.values()), default=0)

    def teardown(self) -> None:
        self.outbox.close()
        self.folder.cleanup()


TestOutboxMachine = OutboxMachine.TestCase
TestOutboxMachine.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
