"""gateway/spare.py: the room that the outbox keeps is enough for what it acknowledged."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest
from outboxes import crashed, entry

from gateway import spare
from gateway.batch import Batch
from gateway.errors import OutboxError
from gateway.outbox import Outbox
from gateway.routes import BACKLOG, LIVE
from gateway.wire import Publish

JOURNAL_BYTES = 160 << 10


def no_more(outbox: Outbox) -> None:
    """The file of the database may not grow any more, nor what undoes a transaction."""
    pages = outbox._db.execute("PRAGMA page_count").fetchone()[0]
    outbox._db.execute(f"PRAGMA max_page_count={pages}")


def taken(outbox: Outbox, batch: Batch) -> bool:
    try:
        outbox.apply(batch)
    except OutboxError as error:
        return "full" not in str(error)
    return True


@pytest.mark.parametrize("most", [0, 60, 700, 1100, 3000, 40_000])
def test_what_was_acknowledged_always_fits_into_a_database_that_cannot_grow(
        path: Path, most: int) -> None:
    rng, rows = random.Random(most), min(40, 60_000 // (most + 1))
    outbox = Outbox(path, JOURNAL_BYTES)
    no_more(outbox)
    number = 0
    while True:
        batch = Batch(insert=[
            entry(number + n, rng.choice([LIVE, BACKLOG]), mid=rng.choice([0, 9, 60_000]),
                  payload=bytes(rng.randint(0, most))) for n in range(rng.randint(1, rows))])
        batch.seen[f"d{rng.randrange(99)}", "life", 1] = number + 1
        topic = f"t{rng.randrange(50)}"
        batch.retained[topic] = Publish(topic, bytes(rng.randint(0, most)), 1, True, False, 0)
        if not taken(outbox, batch):
            break
        number += len(batch.insert)
    assert number > 3
    outbox.flush()  # raises where it does not fit
    assert outbox.journal.empty()
    assert crashed(outbox).start().depth == number


def test_full_database_gives_its_backlog_identifiers_and_lets_it_go(path: Path) -> None:
    outbox = Outbox(path, JOURNAL_BYTES)
    no_more(outbox)
    number = 50
    while taken(outbox, Batch(insert=[entry(number - n, BACKLOG, payload=bytes(90))
                                      for n in range(50)])):
        number += 50
    outbox.flush()
    size = path.stat().st_size
    after, mids = 0, list(range(1, 65_001))
    while loaded := outbox.load(after, 300, mids):
        after = loaded[-1].key
        outbox.flush()
        outbox.apply(Batch(release=loaded))
        outbox.flush()
        outbox.apply(Batch(done=loaded))
        outbox.flush()
    assert outbox.start().depth == 0
    assert path.stat().st_size == size
    outbox.apply(Batch(insert=[entry(number + n, BACKLOG) for n in range(1, 500)]))


def test_disk_without_room_is_not_written_to_find_that_out(
        path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox = Outbox(path, JOURNAL_BYTES)
    size = path.stat().st_size
    monkeypatch.setattr(spare, "disk_bytes", lambda _: 0)
    with pytest.raises(OutboxError, match="full"):
        outbox.apply(Batch(insert=[entry(1, payload=bytes(2_000_000))]))
    assert path.stat().st_size == size
    outbox.apply(Batch(insert=[entry(1)]))  # what fits is taken


def test_undo_journal_is_there_from_the_beginning_and_stays(path: Path) -> None:
    outbox = Outbox(path, JOURNAL_BYTES)
    undo = path.with_name("outbox.db-journal")
    most = outbox.spare.undo_bytes
    assert undo.stat().st_size == most
    outbox.apply(Batch(insert=[entry(n, payload=bytes(2000)) for n in range(1, 3000)]))
    outbox.flush()
    outbox.apply(Batch(done=[entry(n) for n in range(1, 3000)]))
    outbox.flush()
    outbox.close()
    assert undo.stat().st_size == most


def test_room_is_what_the_file_and_the_disk_have_for_more(
        path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox = Outbox(path, JOURNAL_BYTES)
    monkeypatch.setattr(spare, "disk_bytes", lambda _: 0)
    before = outbox.spare.room_bytes()
    assert JOURNAL_BYTES < before < 2 * JOURNAL_BYTES
    outbox.apply(Batch(insert=[entry(1, payload=bytes(20_000))]))
    assert before - 30_000 < outbox.spare.room_bytes() < before - 20_000
    monkeypatch.setattr(spare, "disk_bytes", lambda _: 1 << 30)
    assert outbox.spare.room_bytes() > 900 << 20


def test_undo_journal_that_finds_no_room_gets_half_of_ours(
        path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outbox = Outbox(path)
    undo, ours = (path.with_name(f"outbox.db{end}") for end in ("-journal", "-batches"))
    os.truncate(undo, 0)
    real, size = spare.lengthen, ours.stat().st_size

    def full(fd: int, have: int, want: int) -> None:
        if ours.stat().st_size == size:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(fd, have, want)

    monkeypatch.setattr(spare, "lengthen", full)
    outbox.spare.free_bytes = 0
    outbox.apply(Batch(insert=[entry(1)]))
    assert ours.stat().st_size == size // 2
    assert undo.stat().st_size == outbox.spare.undo_bytes
    assert [e.key & 255 for e in crashed(outbox).start().entries] == [1]
