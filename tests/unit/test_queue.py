"""gateway/queue.py: lanes keep order, caps hold, and the accounts are the sum of what is there."""

from __future__ import annotations

from collections import Counter

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

import gateway.queue
from gateway.batch import LANE_SHIFT, Entry
from gateway.flight import Flight
from gateway.queue import Queue, Waiting
from gateway.routes import BACKLOG, LIVE, REFUSED, URGENT, Route, Router, Target
from gateway.start import Start

MAX_BYTES = 2000


def start(entries: list[Entry] | None = None, used_bytes: int = 0) -> Start:
    entries = entries or []
    return Start(entries=entries, backlog={}, seen={}, received={}, retained={}, wills={},
                 next_id=100, depth=len(entries), used_bytes=used_bytes)


def target(full: str = "reject", urgent: bool = False) -> Target:
    route = Route(full=full, urgent=urgent)  # type: ignore[arg-type]
    found = Router([route]).find(f"{full}/topic")
    assert found is not None
    return found


class Accounts(RuleBasedStateMachine):
    """Messages come, are sent, dropped, refused; the model is the list of what is there."""

    def __init__(self) -> None:
        super().__init__()
        self.most, gateway.queue.LIVE_MOST = gateway.queue.LIVE_MOST, 4
        self.flight = Flight()
        self.queue = Queue(start(), MAX_BYTES, self.flight.mids)
        self.there: list[Entry] = []  # on disk, in order
        self.loaded: set[int] = set()

    def teardown(self) -> None:
        gateway.queue.LIVE_MOST = self.most

    @rule(source=st.sampled_from("ab"), size=st.integers(0, 300),
          full=st.sampled_from(["reject", "drop-oldest", "latest-only"]), urgent=st.booleans(),
          force=st.booleans(), qos=st.integers(0, 2))
    def add(self, source: str, size: int, full: str, urgent: bool, force: bool, qos: int) -> None:
        before = self.queue.used_bytes
        added = self.queue.add(target(full, urgent), source, bytes(size), qos, False, 0,
                               force=force)
        if added is None:
            assert full != "drop-oldest"
            assert not force
            assert before + size > MAX_BYTES - 200
            return
        entry, old = added
        assert (entry.mid > 0) == (entry.lane != BACKLOG)
        self.there.append(entry)
        if old is not None:
            assert full == "latest-only"
            if isinstance(old, Waiting):
                assert old.key not in self.loaded
                row = next(e for e in self.there if e.key == old.key)
                assert (row.topic, row.source, row.size()) == (entry.topic, old.source, old.size)
                self.there.remove(row)
                self.queue.dropped_rows([(old.key, old.source, old.size)], "superseded")
            else:
                assert old.topic == entry.topic
                old.sent = True
                self.there.remove(old)
                self.queue.finished([old])

    @rule(count=st.integers(1, 4))
    def load(self, count: int) -> None:
        rows = [e for e in self.there if e.lane == BACKLOG and e.key not in self.loaded][:count]
        self.loaded.update(row.key for row in rows)
        read = [msgspec.structs.replace(row) for row in rows]  # from the disk: other objects
        self.there = [e for e in self.there if e not in rows] + read
        self.queue.loaded(read, count)

    @rule(count=st.integers(1, 4))
    def drop_oldest(self, count: int) -> None:
        rows = [e for e in self.there if e.lane == BACKLOG and e.key not in self.loaded][:count]
        self.there = [e for e in self.there if e not in rows]
        self.queue.dropped_rows([(e.key, e.source, e.size()) for e in rows], "drop-oldest")

    @rule(pick=st.integers(0, 9), lane=st.sampled_from([URGENT, LIVE, BACKLOG]))
    def deliver(self, pick: int, lane: int) -> None:
        ready = [e for e in self.there if e.lane == lane
                 and (lane != BACKLOG or e.key in self.loaded)]
        if ready:
            entry = ready[pick % len(ready)]
            entry.sent = True
            self.there.remove(entry)
            self.queue.finished([entry])

    @rule(pick=st.integers(0, 9))
    def refuse(self, pick: int) -> None:
        ready = [e for e in self.there if e.lane < BACKLOG or e.key in self.loaded]
        ready = [e for e in ready if e.lane != REFUSED]
        if ready:
            entry = ready[pick % len(ready)]
            entry.sent = True
            old, new, _ = self.queue.set_aside(entry)
            assert old != new
            assert entry.lane == REFUSED

    @invariant()
    def bytes_and_depth_are_the_sum(self) -> None:
        assert self.queue.used_bytes == sum(entry.size() for entry in self.there)
        assert self.queue.depth == len(self.there)
        assert self.queue.refused == sum(e.lane == REFUSED for e in self.there)

    @invariant()
    def backlog_is_counted_by_source(self) -> None:
        rows = [e for e in self.there if e.lane == BACKLOG]
        assert +self.queue.backlog == Counter(e.source for e in rows)
        assert self.queue.unloaded == sum(e.key not in self.loaded for e in rows)
        assert self.queue.loaded_bytes == sum(e.size() for e in rows if e.key in self.loaded)

    @invariant()
    def what_may_be_replaced_is_there_and_on_disk_without_its_payload(self) -> None:
        keys = {e.key for e in self.there} - self.loaded
        for topic, old in self.queue._latest.items():
            assert old.key in keys, topic
            assert isinstance(old, Waiting) == (old.key >> LANE_SHIFT == BACKLOG)

    @invariant()
    def memory_is_bounded(self) -> None:
        for lane in (URGENT, LIVE):
            assert sum(e.lane == lane for e in self.there) <= 4

    @invariant()
    def each_source_keeps_its_order(self) -> None:
        """Lanes are drained one before the other: what came first must not stand behind."""
        for source in ("a", "b", "a!", "b!"):
            mine = sorted((e for e in self.there if e.source == source and e.lane != REFUSED),
                          key=lambda e: e.key & 0xFFFF)
            assert [e.lane for e in mine] == sorted(e.lane for e in mine)


TestAccounts = Accounts.TestCase
TestAccounts.settings = settings(max_examples=100, stateful_step_count=40)


def test_reject_takes_no_more_at_the_cap() -> None:
    queue = Queue(start(), MAX_BYTES, Flight().mids)
    taken = 0
    while queue.add(target(), "s", bytes(100), 1, False, 0) is not None:
        taken += 1
    assert 0 < taken < MAX_BYTES / 100
    assert queue.used_bytes <= MAX_BYTES


def test_latest_only_replaces_at_the_cap_what_was_not_sent() -> None:
    queue, latest = Queue(start(), MAX_BYTES, Flight().mids), target("latest-only")
    first = queue.add(latest, "s", b"1", 1, False, 0)
    assert first is not None
    while queue.add(target(), "s", bytes(100), 1, False, 0) is not None:
        pass
    while queue.add(target(), "s", b"", 1, False, 0) is not None:
        pass
    assert queue.add(latest, "s", b"2", 1, False, 0) is not None
    second = queue.add(latest, "s", b"3", 1, False, 0)
    assert second is not None
    assert isinstance(second[1], Entry)
    assert second[1].payload == b"2"


def test_latest_only_keeps_what_was_sent() -> None:
    queue, latest = Queue(start(), MAX_BYTES, Flight().mids), target("latest-only")
    first = queue.add(latest, "s", b"1", 1, False, 0)
    assert first is not None
    first[0].sent = True
    second = queue.add(latest, "s", b"2", 1, False, 0)
    assert second is not None
    assert second[1] is None


def test_latest_only_takes_no_more_at_the_cap_where_nothing_is_replaced(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway.queue, "LIVE_MOST", 0)
    queue, latest = Queue(start(), MAX_BYTES, Flight().mids), target("latest-only")
    first = queue.add(latest, "s", b"1", 1, False, 0)
    assert first is not None
    read = msgspec.structs.replace(first[0])  # from the disk
    queue.loaded([read], 1)
    while queue.add(target(), "s", bytes(100), 1, False, 0) is not None:
        pass
    while queue.add(target(), "s", b"", 1, False, 0) is not None:
        pass
    assert queue.add(latest, "s", b"2" + bytes(100), 1, False, 0) is None  # on its way
    queue.finished([read])
    while queue.add(target(), "s", b"", 1, False, 0) is not None:
        pass
    assert queue.add(latest, "s", b"3" + bytes(100), 1, False, 0) is None  # gone
    assert not queue._latest


def test_urgent_is_not_sent_to_the_backlog_by_live_traffic(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway.queue, "LIVE_MOST", 2)
    queue = Queue(start(), 10**6, Flight().mids)
    lanes = []
    for urgent in (False, False, False, True):
        added = queue.add(target(urgent=urgent), "s", b"", 1, False, 0)
        assert added is not None
        lanes.append(added[0].lane)
    assert lanes == [LIVE, LIVE, BACKLOG, URGENT]


def test_without_packet_identifiers_messages_wait_on_disk(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway.mids, "MIDS", 1)
    queue = Queue(start(), 10**6, Flight().mids)
    lanes = [added[0].lane for _ in range(2)
             if (added := queue.add(target(), "s", b"", 1, False, 0))]
    assert lanes == [LIVE, BACKLOG]


def test_accounts_after_a_restart_end_at_nothing() -> None:
    entry = Entry(LIVE << LANE_SHIFT | 7, 3, 1, False, False, 0, "#", "s", "t", bytes(50))
    flight = Flight()
    flight.restore([entry])
    queue = Queue(start([entry], entry.size()), MAX_BYTES, flight.mids)
    queue.finished([entry])
    assert (queue.used_bytes, queue.depth) == (0, 0)
    assert (queue._live, queue._live_bytes) == ([0, 0], [0, 0])


@pytest.mark.parametrize(("policy", "given", "expected"), [
    ("as-is", True, True), ("as-is", False, False), ("always", False, True),
    ("never", True, False)])
def test_retain_is_what_the_route_says(policy: str, given: bool, expected: bool) -> None:
    found = Router([Route(retain=policy)]).find("t")  # type: ignore[arg-type]
    assert found is not None
    added = Queue(start(), MAX_BYTES, Flight().mids).add(found, "s", b"", 0, given, 0)
    assert added is not None
    assert added[0].retain is expected


@pytest.mark.parametrize(("came", "upgrade", "expected"), [(0, 0, 0), (0, 2, 2), (1, 2, 2),
                                                           (2, 1, 2), (1, 0, 1)])
def test_qos_is_at_least_what_the_route_says(came: int, upgrade: int, expected: int) -> None:
    found = Router([Route(upgrade=upgrade)]).find("t")  # type: ignore[arg-type]
    assert found is not None
    added = Queue(start(), MAX_BYTES, Flight().mids).add(found, "s", b"", came, False, 0)
    assert added is not None
    assert added[0].qos == expected
