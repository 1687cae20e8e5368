"""gateway/outbox.py on a real SQLite: what is applied is there after a restart, or nothing is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from outboxes import SMALL, crashed, entry, reopened

import gateway.outbox
from gateway.batch import LANE_SHIFT, Batch
from gateway.errors import OutboxError
from gateway.outbox import PENDING_MOST, Outbox
from gateway.outbox_view import Summary
from gateway.routes import BACKLOG, LIVE, REFUSED, URGENT
from gateway.wire import Publish


def test_entries_are_there_after_a_restart_in_order_of_lane_and_age(path: Path) -> None:
    outbox = Outbox(path)
    made = [entry(3, mid=13), entry(1, mid=11), entry(2, URGENT, mid=12, qos=1)]
    outbox.apply(Batch(insert=made))
    start = reopened(outbox).start()
    assert start.entries == [made[2], made[1], made[0]]
    assert (start.next_id, start.depth) == (4, 3)
    assert start.used_bytes == sum(e.size() for e in made)


def test_bytes_are_those_of_the_entries_wherever_they_are_counted(path: Path) -> None:
    outbox = Outbox(path)
    made = [entry(1, BACKLOG, source="käfer" * 50, route="a/" * n + "#", payload=bytes(7))
            for n in range(3)]
    for number, one in enumerate(made):
        one.key += number
    outbox.apply(Batch(insert=made))
    sizes = [one.size() for one in made]
    assert sizes[0] >= 250 + 7
    assert sizes[2] == sizes[0] + 4
    assert outbox.start().used_bytes == sum(sizes)
    assert outbox.oldest(0, "a/#", 1) == [(made[1].key, made[1].source, sizes[1])]
    summary = Summary()
    summary.step(outbox.reader())
    assert summary.result()["bytes"] == sum(sizes)


def test_done_entries_are_gone_and_the_others_are_not(path: Path) -> None:
    outbox = Outbox(path)
    made = [entry(n, mid=n) for n in range(1, 10)]
    outbox.apply(Batch(insert=made))
    outbox.apply(Batch(done=[made[i] for i in (1, 2, 3, 6, 8)]))
    assert [e.mid for e in reopened(outbox).start().entries] == [1, 5, 6, 8]


def test_released_is_on_disk_for_just_those(path: Path) -> None:
    outbox = Outbox(path)
    made = [entry(n, mid=n) for n in range(1, 8)]
    outbox.apply(Batch(insert=made))
    outbox.apply(Batch(release=[made[i] for i in (5, 1, 2)]))
    outbox.apply(Batch(release=[made[3]]))
    assert [e.released for e in reopened(outbox).start().entries] == [
        False, True, True, True, False, True, False]


def test_key_of_a_released_entry_is_not_given_again_while_its_run_stands(path: Path) -> None:
    outbox = Outbox(path)
    made = [entry(n, mid=n) for n in range(1, 6)]
    outbox.apply(Batch(insert=made))
    outbox.apply(Batch(release=made))
    outbox.apply(Batch(done=made[2:]))
    outbox = reopened(outbox)
    outbox.apply(Batch(insert=[entry(outbox.start().next_id, mid=9)]))
    assert [(e.mid, e.released) for e in reopened(outbox).start().entries] == [
        (1, True), (2, True), (9, False)]


def test_load_gives_the_backlog_in_order_with_identifiers_that_are_on_disk(path: Path) -> None:
    outbox = Outbox(path)
    made = [entry(n, BACKLOG, qos=n % 2) for n in range(1, 7)]
    outbox.apply(Batch(insert=[*made, entry(7, LIVE, mid=50)]))
    assert outbox.start().backlog == {"s": 6}
    mids = [101, 102, 103, 104]
    first = outbox.load(0, 4, mids)
    assert [(e.key & 255, e.mid) for e in first] == [(1, 104), (2, 0), (3, 103), (4, 0)]
    assert mids == [101, 102]
    rest = outbox.load(first[-1].key, 4, mids)
    assert [(e.key & 255, e.mid) for e in rest] == [(5, 102), (6, 0)]
    start = reopened(outbox).start()
    assert sorted(e.mid for e in start.entries) == [50, 102, 103, 104]
    assert start.backlog == {"s": 6}


def test_load_stops_at_its_bytes_and_uses_no_more_identifiers(
        path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway.outbox, "LOAD_BYTES", 250)
    outbox = Outbox(path)
    outbox.apply(Batch(insert=[entry(n, BACKLOG, payload=bytes(100)) for n in range(1, 8)]))
    mids = [*range(101, 111)]
    first = outbox.load(0, 10, mids)
    assert [e.key & 255 for e in first] == [1, 2, 3]
    assert mids == [*range(101, 108)]
    monkeypatch.setattr(gateway.outbox, "LOAD_BYTES", 1)
    assert [e.key & 255 for e in outbox.load(first[-1].key, 10, mids)] == [4]  # one at least


def test_oldest_names_unsent_rows_of_its_route_only(path: Path) -> None:
    outbox = Outbox(path)
    outbox.apply(Batch(insert=[entry(n, BACKLOG, route="ab"[n % 2]) for n in range(1, 9)]))
    loaded = outbox.load(0, 2, [1, 2])
    found = outbox.oldest(loaded[-1].key, "b", 2 * loaded[0].size())
    assert [(key & 255, source, size) for key, source, size in found] == [
        (3, "s", loaded[0].size()), (5, "s", loaded[0].size())]


def test_refused_entry_is_kept_out_of_the_way(path: Path) -> None:
    outbox = Outbox(path)
    made = [entry(1, mid=1), entry(2, mid=2)]
    outbox.apply(Batch(insert=made))
    refused = REFUSED << LANE_SHIFT
    outbox.apply(Batch(moved=[(made[0].key, refused | 1, 0), (made[1].key, refused | 2, 2)]))
    start = reopened(outbox).start()
    assert [(e.lane, e.mid) for e in start.entries] == [(REFUSED, 2)]  # its identifier is taken
    assert (start.refused, start.depth, start.next_id) == (2, 2, 3)


def test_everything_else_is_there_after_a_restart(path: Path) -> None:
    outbox = Outbox(path)
    kept, will = Publish("r", b"kept", 1, True, False, 0), Publish("w", b"gone", 2, True, False, 0)
    zero = (1_800_000_000_000, 5, 4, 1_800_000_000_004)
    outbox.apply(Batch(zeros={("d", "life", 1): zero, ("d", "life", 2): zero}))
    outbox.apply(Batch(zeros={("d", "life", 1): None}))
    outbox.apply(Batch(seen={("d", "life", 2): 41}, retained={"r": kept, "x": kept},
                       wills={"c": will, "other": will}, received={("c", 5): True,
                                                                   ("c", 6): True}))
    outbox.apply(Batch(seen={("d", "life", 2): 42}, retained={"x": None}, wills={"other": None},
                       received={("c", 6): None}))
    start = outbox.start()  # out of the journal
    assert start.zeros == {("d", "life", 2): zero}
    start = reopened(outbox).start()
    assert start.zeros == {("d", "life", 2): zero}
    assert start.seen == {("d", "life", 2): 42}
    assert start.retained == {"r": kept}
    assert start.wills == {"c": will}
    assert start.received == {"c": {5}}


@pytest.mark.parametrize("size", [10, 2 * SMALL])
def test_batch_that_fails_changes_nothing(
        path: Path, monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    outbox = Outbox(path, SMALL)
    outbox.apply(Batch(insert=[entry(1, mid=1)]))
    with monkeypatch.context() as patched:  # neither the journal nor the database can be written
        patched.setattr(os, "pwrite", lambda *_: 0)
        outbox._db.execute("PRAGMA query_only=1")
        with pytest.raises(OutboxError):
            outbox.apply(Batch(insert=[entry(2, mid=2), entry(3, mid=3, payload=bytes(size))]))
    outbox._db.execute("PRAGMA query_only=0")
    outbox.apply(Batch(insert=[entry(4, mid=4)]))
    assert [e.mid for e in reopened(outbox).start().entries] == [1, 4]


def test_what_only_the_journal_has_is_there_after_a_crash(path: Path) -> None:
    outbox = Outbox(path)
    made = [entry(n, mid=n) for n in range(1, 5)]
    outbox.apply(Batch(insert=made))
    outbox.apply(Batch(release=made[:2], done=made[3:]))
    assert [(e.mid, e.released) for e in crashed(outbox).start().entries] == [
        (1, True), (2, True), (3, False)]


def test_what_was_delivered_meanwhile_never_comes_to_the_database(path: Path) -> None:
    outbox = Outbox(path, SMALL)
    for number in range(1, 200):
        made = [entry(number, mid=number)]
        outbox.apply(Batch(insert=made))
        outbox.apply(Batch(done=made))
    assert outbox._db.total_changes < 150  # a generation noted now and then
    assert reopened(outbox).start().depth == 0


def test_messages_that_wait_go_to_the_database_before_they_fill_memory(path: Path) -> None:
    outbox, most = Outbox(path), 0
    for number in range(40):
        outbox.apply(Batch(insert=[entry(number * 500 + n, BACKLOG, payload=b"")
                                   for n in range(1, 501)]))
        most = max(most, len(outbox.pending.rows))
    assert 8000 < most <= PENDING_MOST + 500
    assert reopened(outbox).start().depth == 20_000


def test_room_can_be_made_while_the_database_takes_no_more(path: Path) -> None:
    outbox = Outbox(path, SMALL)
    kept = [entry(n, mid=n, payload=bytes(2000)) for n in range(1, 9)]
    outbox.apply(Batch(insert=kept))
    outbox.flush()
    outbox._db.execute("PRAGMA query_only=1")
    for number in range(101, 105):
        outbox.apply(Batch(insert=[entry(number, mid=number)]))
    with pytest.raises(OutboxError):
        outbox.apply(Batch(insert=[entry(105, mid=105)]))
    outbox.apply(Batch(done=kept))  # by what is reserved
    outbox._db.execute("PRAGMA query_only=0")
    assert [e.mid for e in crashed(outbox).start().entries] == list(range(101, 105))


def test_room_can_be_made_while_the_database_is_full_and_memory_holds_its_most(
        path: Path) -> None:
    outbox = Outbox(path)
    made = [entry(n, mid=n % 65_535 + 1, payload=b"") for n in range(1, PENDING_MOST + 1)]
    outbox.apply(Batch(insert=made))
    outbox._db.execute("PRAGMA query_only=1")
    with pytest.raises(OutboxError):
        outbox.apply(Batch(insert=[entry(PENDING_MOST + 1, mid=9)]))
    outbox.apply(Batch(done=made[1:]))
    outbox._db.execute("PRAGMA query_only=0")
    assert [e.key for e in crashed(outbox).start().entries] == [made[0].key]


def test_ages_go_on_where_they_ended(path: Path) -> None:
    outbox = Outbox(path)
    outbox.apply(Batch(insert=[entry(1, mid=1, age_s=5000)]))
    assert 5000 <= reopened(outbox).clock_s() < 5060


@pytest.mark.parametrize("again", [crashed, reopened])
def test_seen_0_is_forgotten(path: Path, again: Callable[[Outbox], Outbox]) -> None:
    outbox = Outbox(path)
    outbox.apply(Batch(seen={("d", "a", 1): 7, ("d", "a", 2): 8}))
    outbox.flush()
    outbox.apply(Batch(seen={("d", "a", 1): 0, ("d", "a", 3): 9}))
    outbox = again(outbox)
    assert outbox.start().seen == {("d", "a", 2): 8, ("d", "a", 3): 9}
    assert reopened(outbox).start().seen == {("d", "a", 2): 8, ("d", "a", 3): 9}
