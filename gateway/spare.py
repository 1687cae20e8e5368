"""The room that the outbox keeps in its own files, so that draining a full disk needs no more.

Others fill a disk too, at any moment; what is free on it is nobody's. So before a message is
acknowledged, the place where the database will have it is there already:

1. Pages: free ones in the database's own file, as many as the rows of the journal can need. They
   are made by writing zeros there and deleting them: the file does not shrink. Where the disk has
   no room for that, no more is acknowledged; what is delivered frees pages, and then it is again.
2. Undo: SQLite's rollback journal stays, and is at least so long that a small transaction fits.

Deletes and marks then write only where something is already, and the journal can always be let
go. The same room is used again and again: a gateway that drains as fast as it fills writes no
zeros after the first start.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from pathlib import Path

from gateway.batch import Change
from gateway.database import PAGE_BYTES
from gateway.errors import OutboxError
from gateway.journal import Journal, lengthen

UNDO_MOST_BYTES = 512 << 10
UNDO_LEAST_BYTES = 128 << 10
SLACK_BYTES = 64 << 10  # for what comes with no message, and for inner pages
CELL_BYTES = 16  # that a row takes more here than in the journal


def need_bytes(change: Change, body_bytes: int) -> int:
    """The most that the database can need for a change which is so long in the journal.

    A page of a b-tree and the next hold more than one page together, so half a page is lost at
    most, and what is longer than a page fills others but for its ends.
    """
    count = len(change.rows) + len(change.seen) + len(change.retained) + len(change.wills) \
        + len(change.received) + len(change.zeros)
    if not count:
        return 0
    size = body_bytes + CELL_BYTES * count
    return min(size * 21 // 10, size * 11 // 10 + (PAGE_BYTES + 76) * count)


class Spare:
    """Accounts of it. Blocks, and is used in one thread at a time, as the outbox is."""

    def __init__(self, path: Path, journal: Journal) -> None:
        self._path, self._journal = path, journal
        self.want_bytes = max(2 * SLACK_BYTES, journal.want_bytes * 5 // 4)
        self.undo_bytes = min(UNDO_MOST_BYTES, max(UNDO_LEAST_BYTES, journal.want_bytes // 2))
        self.free_bytes = self.owed_bytes = 0  # in the database; to the rows of the journal

    def open(self, db: sqlite3.Connection) -> None:
        """Begin with a database. Raises OutboxError."""
        db.execute(f"PRAGMA journal_size_limit={self.undo_bytes}")
        if db.execute("SELECT 1 FROM sqlite_master WHERE name = 'spare'").fetchone():
            with suppress(sqlite3.Error):
                db.execute("DELETE FROM spare")  # a crash between the two steps of `_grown`
        self.look(db)
        self.secure(db, self.want_bytes)

    def look(self, db: sqlite3.Connection) -> None:
        """See what is free now that the database has all that the journal held."""
        self.free_bytes = db.execute("PRAGMA freelist_count").fetchone()[0] * PAGE_BYTES
        self.owed_bytes = 0

    def has(self, need: int, *, reserve: bool) -> bool:
        """Whether there is room for so much more. reserve: it comes without a message, so it may
        have what is kept for that."""
        slack = 0 if reserve else SLACK_BYTES
        return need == 0 or self.owed_bytes + need + slack <= self.free_bytes

    def room_bytes(self) -> int:
        """About how much more there is room for, in the file and on the disk."""
        return max(0, self.free_bytes - self.owed_bytes + disk_bytes(self._path)) * 10 // 11

    def take(self, need: int) -> None:
        """The journal has rows that will need so much."""
        self.owed_bytes += need

    def secure(self, db: sqlite3.Connection, need: int, *, reserve: bool = False) -> None:
        """Make room for so much more, by lengthening the file. Raises OutboxError."""
        if self.has(need, reserve=reserve):
            return
        try:
            self._undo()
            least = self.owed_bytes + need + SLACK_BYTES
            size = max(self.want_bytes, least)
            while not self._grown(db, size) and size > least:
                size = max(least, size // 2)
        except (OSError, sqlite3.Error) as error:
            raise OutboxError(f"{self._path}: {error}") from error
        if not self.has(need, reserve=reserve):
            raise OutboxError(f"{self._path}: the disk is full")

    def _grown(self, db: sqlite3.Connection, size: int) -> bool:
        """Have so much free in the file; False where the disk has no room for it."""
        if size - self.free_bytes > disk_bytes(self._path):
            return False
        try:
            db.execute("BEGIN IMMEDIATE")
            db.execute("CREATE TABLE IF NOT EXISTS spare(room BLOB)")
            db.execute("INSERT INTO spare VALUES(zeroblob(?))", (size,))
            db.execute("COMMIT")
        except sqlite3.Error:
            if db.in_transaction:
                db.execute("ROLLBACK")
            return False
        db.execute("DELETE FROM spare")
        self.free_bytes = db.execute("PRAGMA freelist_count").fetchone()[0] * PAGE_BYTES
        return True

    def _undo(self) -> None:
        """Make the rollback journal as long as it has to be. Raises OSError."""
        fd = os.open(self._path.with_name(self._path.name + "-journal"),
                     os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            have = os.fstat(fd).st_size
            while have < self.undo_bytes:
                try:
                    lengthen(fd, have, self.undo_bytes)
                    break
                except OSError:
                    if not self._journal.shrink():
                        raise
        finally:
            os.close(fd)


def disk_bytes(path: Path) -> int:
    """What the disk of a file has free for us, by its own word; no end where it says nothing."""
    try:
        disk = os.statvfs(path)
    except OSError:
        return 1 << 62
    return disk.f_bavail * disk.f_frsize
