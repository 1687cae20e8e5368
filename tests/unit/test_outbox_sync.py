"""gateway/outbox.py where the disk fails in a sync: what it has all the same, and since."""

from __future__ import annotations

import os
import shutil
import sqlite3
from pathlib import Path

import pytest
from outboxes import SMALL, LostSync, crashed, entry, filled, reopened

from gateway.batch import Batch, Entry
from gateway.errors import OutboxError
from gateway.outbox import Outbox
from gateway.outbox_view import all_rows
from gateway.routes import BACKLOG


def failed_flush(outbox: Outbox) -> LostSync:
    """Have the database take over everything on the disk, and nothing by its word."""
    disk = LostSync(outbox)
    disk.failing = True
    with pytest.raises(OutboxError, match="disk I/O"):
        outbox.flush()
    disk.failing = False
    return disk


def held(outbox: Outbox) -> list[tuple[int, bool]]:
    assert outbox.set_aside is None
    start = outbox.start()
    assert start.depth == len(start.entries)
    return [(e.mid, e.released) for e in start.entries]


def test_what_is_committed_after_a_failed_flush_is_there_after_a_crash(path: Path) -> None:
    outbox = Outbox(path)
    made = [entry(n, mid=n) for n in range(1, 6)]
    outbox.apply(Batch(insert=made))
    failed_flush(outbox)
    outbox.apply(Batch(done=made[:3]))
    outbox.apply(Batch(release=made[3:4], insert=[entry(9, mid=1)]))
    outbox = crashed(outbox)
    assert held(outbox) == [(4, True), (5, False), (1, False)]
    assert held(reopened(outbox)) == [(4, True), (5, False), (1, False)]


def test_look_from_outside_shows_the_same(path: Path) -> None:
    outbox = Outbox(path)
    outbox.apply(Batch(insert=[entry(1, mid=1)]))
    disk = failed_flush(outbox)
    outbox.apply(Batch(insert=[entry(2, mid=2)]))
    disk.close()
    assert [row["key"] & 255 for row in all_rows(path)] == [1, 2]


def test_flush_fails_again_and_again_with_crashes_between(path: Path) -> None:
    outbox, kept = Outbox(path), []
    for number in range(1, 9):
        outbox.apply(Batch(insert=[entry(2 * number, mid=2 * number)]))
        failed_flush(outbox)
        if number % 3 == 0:
            outbox = crashed(outbox)
        outbox.apply(Batch(insert=[entry(2 * number + 1, mid=2 * number + 1)]))
        outbox.apply(Batch(done=[entry(2 * number)]))
        kept.append((2 * number + 1, False))
    assert held(crashed(outbox)) == kept


def test_flush_that_works_after_one_that_failed_begins_anew(path: Path) -> None:
    outbox = Outbox(path)
    made = [entry(n, mid=n) for n in range(1, 4)]
    outbox.apply(Batch(insert=made[:2]))
    failed_flush(outbox)
    outbox.apply(Batch(done=made[:1]))
    outbox.flush()
    assert outbox.journal.empty()
    outbox.apply(Batch(insert=made[2:]))
    assert held(crashed(outbox)) == [(2, False), (3, False)]


def test_full_journal_takes_nothing_while_flushes_fail_and_loses_nothing(path: Path) -> None:
    outbox = Outbox(path, SMALL)
    disk = LostSync(outbox)
    disk.failing = True
    number = filled(outbox)
    outbox.apply(Batch(done=[entry(1)]))  # by what is reserved
    assert held(crashed(outbox)) == [(mid, False) for mid in range(2, number + 1)]


def big(count: int) -> list[Entry]:
    """More than a small journal holds, each of them less."""
    return [entry(n, BACKLOG, mid=n, payload=bytes(SMALL // count + 1))
            for n in range(1, count + 1)]


def test_batch_larger_than_the_journal_that_failed_may_come_again_in_parts(path: Path) -> None:
    outbox, made = Outbox(path, SMALL), big(12)
    disk = LostSync(outbox)
    disk.failing = True
    with pytest.raises(OutboxError, match="disk I/O"):
        outbox.apply(Batch(insert=made))
    for one in made[:2]:
        outbox.apply(Batch(insert=[one]))
    disk.close()
    outbox.journal.close()
    assert [row["key"] & 255 for row in all_rows(path)] == list(range(1, 13))
    left = Outbox(path)
    assert [e.mid for e in left.start().entries] == list(range(1, 13))
    assert left.start().depth == 12  # the two are not there twice
    left.apply(Batch(done=made[1:]))
    left.flush()
    assert [e.mid for e in reopened(left).start().entries] == [1]


def test_write_to_the_journal_that_failed_never_comes_back_on_top_of_a_larger_batch(
        path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox, real = Outbox(path, SMALL), os.pwrite

    def late(*how: object) -> int:
        real(*how)  # type: ignore[arg-type]
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", late)
        with pytest.raises(OutboxError):
            outbox.apply(Batch(insert=[entry(99, mid=1)]))
    outbox.apply(Batch(insert=big(12)))
    assert [e.mid for e in crashed(outbox).start().entries] == list(range(1, 13))


def test_what_the_log_holds_at_the_start_is_written_anew(path: Path) -> None:
    """A sync that failed may have left it in memory only, where no later sync looks."""
    outbox = Outbox(path)
    outbox.apply(Batch(insert=[entry(1, mid=1)]))
    failed_flush(outbox)
    outbox = crashed(outbox)
    alone = path.with_name("alone.db")
    shutil.copy(path, alone)
    db = sqlite3.connect(alone)
    assert db.execute("SELECT mid FROM msg").fetchall() == [(1,)]
    db.close()
