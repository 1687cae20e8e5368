"""gateway/outbox.py on a full disk, and with files that are damaged, old, new or another's."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from outboxes import SMALL, crashed, entry, reopened

from gateway.batch import Batch
from gateway.errors import OutboxError
from gateway.journal import PAGE, RESERVE_BYTES
from gateway.outbox import Outbox
from gateway.outbox_view import all_rows
from gateway.routes import BACKLOG


def test_journal_of_another_outbox_is_set_aside_and_said(
        path: Path, caplog: pytest.LogCaptureFixture) -> None:
    other = Outbox(path.with_name("other.db"))
    other.apply(Batch(insert=[entry(1, mid=1)]))
    left = path.with_name("other.db-batches").read_bytes()
    path.with_name("outbox.db-batches").write_bytes(left)
    outbox = Outbox(path)
    assert outbox.set_aside is not None
    assert outbox.set_aside.read_bytes() == left
    assert "not of this outbox" in caplog.text
    outbox.apply(Batch(insert=[entry(7, mid=7)]))
    assert [e.mid for e in crashed(outbox).start().entries] == [7]


def test_damaged_journal_is_kept_aside_and_what_is_readable_taken_over(path: Path) -> None:
    outbox = Outbox(path)
    for number in range(1, 4):
        outbox.apply(Batch(insert=[entry(number, mid=number)]))
    outbox._db.close()
    outbox.journal.close()
    journal = path.with_name("outbox.db-batches")
    data = bytearray(journal.read_bytes())
    data[PAGE + 40] ^= 255
    journal.write_bytes(data)
    outbox = Outbox(path)
    assert [e.mid for e in outbox.start().entries] == [1, 3]
    assert outbox.set_aside is not None
    assert outbox.set_aside.read_bytes() == bytes(data)


def without_a_journal(path: Path) -> None:
    path.with_name("outbox.db-batches").unlink()
    db = sqlite3.connect(path)
    db.executescript("DELETE FROM msg WHERE mid = 2; DROP TABLE journal; PRAGMA user_version=1;")
    db.close()


def without_how_far(path: Path) -> None:
    db = sqlite3.connect(path)
    db.executescript("ALTER TABLE journal DROP COLUMN at; ALTER TABLE journal DROP COLUMN forget;"
                     "PRAGMA user_version=2;")
    db.close()


@pytest.mark.parametrize(("to_earlier", "there"), [(without_a_journal, [1]),
                                                   (without_how_far, [1, 2])])
def test_outbox_of_an_earlier_format_is_looked_into_and_taken_over(
        path: Path, to_earlier: Callable[[Path], None], there: list[int]) -> None:
    outbox = Outbox(path)
    outbox.apply(Batch(insert=[entry(1, mid=1), entry(9, mid=9)]))
    outbox.apply(Batch(done=[entry(9)]))  # what is left of this in the journal is of no worth
    outbox.flush()
    outbox.apply(Batch(insert=[entry(2, mid=2)]))  # in the journal only
    outbox._db.close()
    outbox.journal.close()
    to_earlier(path)
    assert [row["key"] & 255 for row in all_rows(path)] == there
    outbox = Outbox(path)
    assert not outbox.forget
    assert [e.mid for e in outbox.start().entries] == there
    outbox.apply(Batch(insert=[entry(3, mid=3)]))
    outbox = crashed(outbox)
    assert outbox.set_aside is None
    assert [e.mid for e in outbox.start().entries] == [*there, 3]


def test_outbox_of_an_earlier_format_that_was_flushed_last_has_no_more(path: Path) -> None:
    outbox = Outbox(path)
    made = [entry(1, mid=1), entry(2, mid=2)]
    outbox.apply(Batch(insert=made))
    outbox.apply(Batch(done=made[:1]))
    outbox.close()
    without_how_far(path)
    with path.with_name("outbox.db-batches").open("r+b") as journal:
        journal.write(bytes(PAGE))  # as a power cut in the first record of the next generation
    outbox = Outbox(path)
    assert outbox.set_aside is None
    assert [e.mid for e in outbox.start().entries] == [2]


def test_full_disk_takes_nothing_and_works_again_with_room(path: Path) -> None:
    outbox = Outbox(path, SMALL)
    outbox.apply(Batch(insert=[entry(1, mid=1)]))
    outbox.flush()
    pages = outbox._db.execute("PRAGMA page_count").fetchone()[0]
    outbox._db.execute(f"PRAGMA max_page_count={pages}")
    big = entry(2, mid=2, payload=bytes(200_000))  # more than is kept
    for _ in range(2):
        with pytest.raises(OutboxError, match="full"):
            outbox.apply(Batch(insert=[big]))
    outbox._db.execute("PRAGMA max_page_count=1000000")
    outbox.apply(Batch(insert=[big]))
    assert [e.mid for e in reopened(outbox).start().entries] == [1, 2]


def test_backlog_is_not_loaded_half_on_a_full_disk(path: Path) -> None:
    outbox = Outbox(path)
    outbox.apply(Batch(insert=[entry(n, BACKLOG) for n in range(1, 4)]))
    outbox._db.execute("PRAGMA query_only=1")  # writes fail, reads do not
    mids = [7, 8, 9]
    with pytest.raises(OutboxError):
        outbox.load(0, 3, mids)
    assert mids == [7, 8, 9]
    outbox._db.execute("PRAGMA query_only=0")
    assert [e.mid for e in outbox.load(0, 3, mids)] == [9, 8, 7]


def full(outbox: Outbox) -> None:
    """The database can grow no more, and nobody kept room in it, as in version 3."""
    outbox._db.execute("VACUUM")
    outbox.spare.free_bytes = 1 << 40
    pages = outbox._db.execute("PRAGMA page_count").fetchone()[0]
    outbox._db.execute(f"PRAGMA max_page_count={pages}")


def stuck(path: Path, in_database: int, in_journal: int) -> Outbox:
    """Messages in both, numbered from 1, and those in the journal do not fit into the database."""
    outbox = Outbox(path, RESERVE_BYTES + in_journal * PAGE)
    numbers = range(1, in_database + in_journal + 1)
    entries = [entry(n, mid=n, payload=bytes(2000)) for n in numbers]
    if in_database:
        outbox.apply(Batch(insert=entries[:in_database]))
        outbox.flush()
    full(outbox)
    for made in entries[in_database:]:
        outbox.apply(Batch(insert=[made]))
    with pytest.raises(OutboxError, match="full"):
        outbox.apply(Batch(insert=[entry(99_999)]))
    return outbox


def test_full_disk_drains_past_the_reserve_of_the_journal(path: Path) -> None:
    outbox = stuck(path, in_database=100, in_journal=60)
    reserve = RESERVE_BYTES // PAGE
    for n in range(1, 41):
        outbox.apply(Batch(release=[entry(n)]))
        outbox.apply(Batch(done=[entry(n)]))
    assert not outbox.journal.room(bytes(1), reserve=True)  # 80 commits, and it took 16
    assert reserve < 80
    outbox.apply(Batch(release=[entry(41), entry(160)]))  # in the database, in the journal
    outbox = crashed(outbox)
    left = outbox.start().entries
    assert [e.mid for e in left] == list(range(41, 161))
    assert [e.mid for e in left if e.released] == [41, 160]


def test_release_between_others_past_a_full_journal_is_remembered(path: Path) -> None:
    outbox = stuck(path, in_database=0, in_journal=40)
    while outbox.journal.room(bytes(1), reserve=True):
        outbox.apply(Batch(release=[entry(20)]))
    for n in (30, 29, 31):
        outbox.apply(Batch(release=[entry(n)]))
    left = crashed(outbox).start().entries
    assert [e.mid for e in left if e.released] == [20, 29, 30, 31]


def test_what_only_a_full_journal_has_is_released_and_goes_together(path: Path) -> None:
    outbox = stuck(path, in_database=0, in_journal=200)
    numbers = range(1, 201)
    for n in numbers:
        outbox.apply(Batch(release=[entry(n)]))
    assert outbox._db.execute("SELECT count(*) FROM released").fetchone()[0] < 5
    with pytest.raises(OutboxError, match="full"):
        outbox.apply(Batch(done=[entry(1)]))
    left = crashed(outbox).start().entries
    assert [e.mid for e in left if e.released] == list(numbers)


def test_full_journal_is_let_go_once_what_is_left_fits(path: Path) -> None:
    outbox = stuck(path, in_database=0, in_journal=200)
    for n in range(1, 18):
        outbox.apply(Batch(release=[entry(n)]))
    outbox.apply(Batch(done=[entry(n) for n in range(1, 201)]))
    assert outbox.journal.empty()
    assert crashed(outbox).start().entries == []


def test_number_of_a_released_message_is_not_used_again(path: Path) -> None:
    outbox = Outbox(path)
    outbox.apply(Batch(insert=[entry(7, mid=7)]))
    outbox.flush()
    outbox.apply(Batch(release=[entry(7)]))
    outbox._db.execute("DELETE FROM msg")  # as past a full journal, see Outbox._settle
    assert outbox.start().next_id == 8


def test_backlog_is_loaded_though_what_follows_has_no_room(path: Path) -> None:
    outbox = Outbox(path, SMALL)
    outbox.apply(Batch(insert=[entry(n, BACKLOG, payload=bytes(2000)) for n in range(1, 4)]))
    outbox.flush()
    full(outbox)
    outbox.apply(Batch(insert=[entry(4, BACKLOG, payload=bytes(2000))]))
    mids = [6, 7, 8, 9]
    assert [e.mid for e in outbox.load(0, 4, mids)] == [9, 8, 7]
    assert mids == [6]


FILE_LIMIT = """
import resource, signal, sys
from pathlib import Path
from gateway.errors import OutboxError
from gateway.batch import Batch, Entry
from gateway.outbox import Outbox

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # a write beyond the limit then fails with EFBIG
outbox, number = Outbox(Path(sys.argv[1])), 0
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, hard))
try:
    while True:
        made = Entry(1 << 56 | number + 1, number + 1, 1, False, False, 0, "#", "s", "t",
                     bytes(9000))
        outbox.apply(Batch(insert=[made]))
        number += 1
except OutboxError as error:
    print(number)
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
outbox.apply(Batch(insert=[made]))
print(number + 1)
"""


def test_disk_that_takes_no_more_bytes_loses_nothing(path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", FILE_LIMIT, str(path)], capture_output=True,
                          text=True, timeout=30, check=False)
    assert done.returncode == 0, done.stderr
    before, after = map(int, done.stdout.split())
    assert before > 5
    assert len(Outbox(path).start().entries) == after == before + 1


@pytest.mark.parametrize("damage", ["junk", "truncated", "pages"])
def test_corrupt_file_is_set_aside_and_a_new_one_begun(path: Path, damage: str) -> None:
    outbox = Outbox(path)
    outbox.apply(Batch(insert=[entry(n, mid=n, payload=bytes(500)) for n in range(1, 200)]))
    outbox.close()
    data = bytearray(path.read_bytes())
    if damage == "junk":
        data[:] = b"not a database" * 1000
    elif damage == "truncated":
        del data[len(data) // 2:]
    else:
        data[2048:40_000] = bytes(40_000 - 2048)
    path.write_bytes(data)
    outbox = Outbox(path)
    assert outbox.set_aside is not None
    assert outbox.set_aside.read_bytes() == bytes(data)
    assert outbox.start().depth == 0
    outbox.apply(Batch(insert=[entry(1, mid=1)]))
    assert reopened(outbox).start().depth == 1


def test_second_corrupt_file_does_not_replace_the_first(path: Path) -> None:
    kept = set()
    for number in range(2):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"junk %d " % number * 999)
        outbox = Outbox(path)
        assert outbox.set_aside is not None
        kept.add(outbox.set_aside.read_bytes()[:6])
        outbox.close()
    assert kept == {b"junk 0", b"junk 1"}


def test_file_of_a_newer_version_is_refused_in_one_line_and_left_alone(path: Path) -> None:
    Outbox(path).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version=99")
    db.close()
    before = path.read_bytes()
    with pytest.raises(OutboxError, match="newer Tidegate") as caught:
        Outbox(path)
    assert "\n" not in str(caught.value)
    assert path.read_bytes() == before


def test_outbox_in_use_by_another_gateway_is_refused(path: Path) -> None:
    outbox = Outbox(path)
    outbox.apply(Batch(insert=[entry(1, mid=1)]))
    with pytest.raises(OutboxError, match="in use; another gateway"):
        Outbox(path)
    assert reopened(outbox).start().depth == 1


def test_path_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutboxError) as caught:
        Outbox(tmp_path / "file" / "outbox.db")
    assert "\n" not in str(caught.value)


def test_move_that_failed_in_part_and_was_tried_again_is_deleted_under_either_key(
        path: Path) -> None:
    """The database had room for the move, and nothing says in the journal that it is done."""
    outbox = stuck(path, in_database=1, in_journal=1)
    while outbox.journal.room(bytes(1), reserve=True):
        outbox.apply(Batch(release=[entry(1)]))
    old, new = entry(1).key, entry(50).key
    outbox.apply(Batch(moved=[(old, new, 1)]))
    outbox.apply(Batch(done=[entry(50)]))
    assert [e.mid for e in outbox.start().entries] == [2]
    assert [e.mid for e in crashed(outbox).start().entries] == [2]
