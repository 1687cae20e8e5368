"""gateway/outbox.py on a real SQLite: what is applied is there after a restart, or nothing is."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.batch import LANE_SHIFT, Batch, Entry
from gateway.errors import OutboxError
from gateway.journal import PAGE, RESERVE_BYTES
from gateway.outbox import PENDING_MOST, Outbox
from gateway.routes import BACKLOG, LIVE, REFUSED, URGENT
from gateway.wire import Publish

SMALL = RESERVE_BYTES + 4 * PAGE  # a journal for few commits


def entry(number: int, lane: int = LIVE, *, mid: int = 0, qos: int = 2, source: str = "s",
          route: str = "#", payload: bytes = b"payload", age_s: int = 0) -> Entry:
    return Entry(lane << LANE_SHIFT | number, mid, qos, False, False, age_s, route, source, "t",
                 payload)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "outbox.db"


def crashed(outbox: Outbox) -> Outbox:
    """As kill -9 leaves it."""
    outbox._db.close()
    outbox.journal.close()
    return Outbox(outbox.path)


def reopened(outbox: Outbox) -> Outbox:
    outbox.close()
    return Outbox(outbox.path)


def test_entries_are_there_after_a_restart_in_order_of_lane_and_age(path: Path) -> None:
    outbox = Outbox(path)
    made = [entry(3, mid=13), entry(1, mid=11), entry(2, URGENT, mid=12, qos=1)]
    outbox.apply(Batch(insert=made))
    start = reopened(outbox).start()
    assert start.entries == [made[2], made[1], made[0]]
    assert (start.next_id, start.depth) == (4, 3)
    assert start.used_bytes == sum(e.size() for e in made)


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
    outbox.apply(Batch(seen={("d", "life", 2): 41}, retained={"r": kept, "x": kept},
                       wills={"c": will, "other": will}, received={("c", 5): True,
                                                                   ("c", 6): True}))
    outbox.apply(Batch(seen={("d", "life", 2): 42}, retained={"x": None}, wills={"other": None},
                       received={("c", 6): None}))
    start = reopened(outbox).start()
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


def test_outbox_of_the_format_without_a_journal_is_taken_over(path: Path) -> None:
    outbox = Outbox(path)
    outbox.apply(Batch(insert=[entry(1, mid=1)]))
    outbox.close()
    path.with_name("outbox.db-batches").unlink()
    db = sqlite3.connect(path)
    db.executescript("DROP TABLE journal; PRAGMA user_version=1;")
    db.close()
    outbox = Outbox(path)
    assert not outbox.new
    outbox.apply(Batch(insert=[entry(2, mid=2)]))
    assert [e.mid for e in crashed(outbox).start().entries] == [1, 2]


def test_full_disk_takes_nothing_and_works_again_with_room(path: Path) -> None:
    outbox = Outbox(path, SMALL)
    outbox.apply(Batch(insert=[entry(1, mid=1)]))
    outbox.flush()
    pages = outbox._db.execute("PRAGMA page_count").fetchone()[0]
    outbox._db.execute(f"PRAGMA max_page_count={pages}")
    big = entry(2, mid=2, payload=bytes(100_000))
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
    with pytest.raises(OutboxError, match="another gateway"):
        Outbox(path)
    assert reopened(outbox).start().depth == 1


def test_path_that_cannot_be_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutboxError) as caught:
        Outbox(tmp_path / "file" / "outbox.db")
    assert "\n" not in str(caught.value)


def test_ages_go_on_where_they_ended(path: Path) -> None:
    outbox = Outbox(path)
    outbox.apply(Batch(insert=[entry(1, mid=1, age_s=5000)]))
    assert 5000 <= reopened(outbox).clock_s() < 5060
