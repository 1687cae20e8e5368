"""gateway/old_log.py: a log of format 3 is taken over page by page, whatever stops it halfway."""

from __future__ import annotations

import errno
import os
import random
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from gateway import old_log
from gateway.errors import OutboxError

Rows = list[tuple[int, bytes]]


def made(folder: Path, seed: int) -> Rows:
    """A database with a log that was never taken over; what it holds."""
    rng, path = random.Random(seed), folder / "made.db"
    db = sqlite3.connect(path, isolation_level=None)
    db.executescript("PRAGMA page_size=1024; PRAGMA journal_mode=WAL; CREATE TABLE msg(key "
                     "INTEGER PRIMARY KEY, payload BLOB); PRAGMA wal_autocheckpoint=0;")
    for number in range(rng.randrange(5, 40)):
        db.execute("BEGIN")
        for key in range(number * 10, number * 10 + 10):
            db.execute("INSERT INTO msg VALUES(?, ?)", (key, rng.randbytes(rng.randrange(3000))))
        db.execute("DELETE FROM msg WHERE key = ?", (rng.randrange(number * 10 + 1),))
        db.execute("COMMIT")
        if number == seed % 4:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    db.execute("BEGIN")
    db.execute("DELETE FROM msg WHERE key % 3 = 1")  # never committed
    rows = sqlite3.connect(path).execute("SELECT * FROM msg").fetchall()
    for end in ("", "-wal"):
        shutil.copy(folder / f"made.db{end}", folder / f"outbox.db{end}")
    db.close()
    return rows


def held(path: Path) -> Rows:
    assert not path.with_name("outbox.db-wal").exists()
    assert not path.with_name("outbox.db-moving").exists()
    db = sqlite3.connect(path)
    assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    return db.execute("SELECT * FROM msg").fetchall()


@pytest.mark.parametrize("seed", range(8))
def test_all_that_was_committed_is_in_the_database(tmp_path: Path, seed: int) -> None:
    rows = made(tmp_path, seed)
    old_log.take_over(tmp_path / "outbox.db")
    assert held(tmp_path / "outbox.db") == rows


@pytest.mark.parametrize("seed", range(4))
def test_crash_at_any_call_is_gone_on_from(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    rows, rng = made(tmp_path, seed), random.Random(seed)
    left = 0

    def until_the_crash(call: str) -> None:
        real = getattr(os, call)

        def counted(*how: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                raise OSError(errno.EIO, "killed")
            return real(*how)

        monkeypatch.setattr(os, call, counted)

    for call in ("pwrite", "fsync", "ftruncate"):
        until_the_crash(call)
    crashes = 0
    while True:
        left = rng.randrange(1, 120)
        try:
            old_log.take_over(tmp_path / "outbox.db")
            break
        except OutboxError:
            crashes += 1
            left = 10**9
    assert crashes
    assert held(tmp_path / "outbox.db") == rows


def test_moving_needs_little_more_than_the_database_and_the_rest_of_the_log(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = made(tmp_path, 3)
    files = [tmp_path / f"outbox.db{end}" for end in ("", "-wal", "-moving")]

    def used() -> int:
        return sum(f.stat().st_blocks * 512 for f in files if f.exists())

    before, most, real = used(), 0, os.fsync

    def watched(fd: int) -> None:
        nonlocal most
        real(fd)
        most = max(most, used())

    monkeypatch.setattr(os, "fsync", watched)
    old_log.take_over(files[0])
    assert most <= before + (old_log.STEP_PAGES << 10) + 2 * old_log.BLOCK
    assert held(files[0]) == rows


HOLDS = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
db.execute("PRAGMA locking_mode=EXCLUSIVE")
db.execute("PRAGMA journal_mode=WAL")
db.execute("DELETE FROM msg")
print("held", flush=True)
sys.stdin.read()
"""


def test_one_that_runs_is_left_alone(tmp_path: Path) -> None:
    made(tmp_path, 1)
    path = tmp_path / "outbox.db"
    with subprocess.Popen([sys.executable, "-c", HOLDS, str(path)], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(OutboxError, match="in use"):
            old_log.take_over(path)
        other.stdin.close()
