"""The outbox: what is acknowledged to devices and not yet by the upstream, on disk.

A commit goes to the journal, in one write and one sync. What is still there when the journal is
full goes to the database, in one transaction; most messages have been delivered by then and never
do. After a crash the journal is read back.

    apply ──▶ journal ──full──▶ database          start = database + journal

The journal never holds more than the database has room for, see spare.py. Everything here blocks;
gateway/commit.py calls it from one thread at a time.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Callable
from functools import partial
from itertools import islice
from pathlib import Path

from gateway import batch as batches
from gateway import database, start
from gateway.batch import LANE_SHIFT, SIZE, Batch, Change, Entry, Pending
from gateway.database import COLUMNS
from gateway.errors import OutboxError
from gateway.journal import SIZE_BYTES, fitting_bytes
from gateway.opening import open_files
from gateway.routes import BACKLOG
from gateway.spare import Spare, need_bytes
from gateway.start import Start, entry_of

log = logging.getLogger("tidegate.outbox")

PENDING_MOST = 8192  # messages that only the journal has; bounds memory
LOAD_BYTES = 8 * 2**20  # of payload, read from the backlog at once
NOTHING = batches.encode(Change([]))
STEP_ROWS = 50  # deleted or marked at once where there is room for a small transaction only


class Record:
    """A change made ready for the journal."""

    def __init__(self, change: Change) -> None:
        self.change, self.body = change, batches.encode(change)
        self.makes_room = not change.rows
        self.need_bytes = need_bytes(change, len(self.body))


class Outbox:
    """A SQLite file and a journal in front of it. Raises OutboxError where the disk does."""

    def __init__(self, path: Path, journal_bytes: int = SIZE_BYTES) -> None:
        self.path = path
        self.pending = Pending()
        opened = open_files(path, fitting_bytes(path.parent, journal_bytes))
        self.set_aside, self.journal, self.forget = opened.set_aside, opened.journal, opened.forget
        self._db = opened.db
        for change in opened.changes:
            self.pending.fold(change)
        self.spare = Spare(path, self.journal)
        try:
            self._take_over()
            self.spare.open(self._db)
        except OutboxError as error:  # a full disk; what is there can be delivered
            log.warning("cannot tidy the outbox reason=%r", str(error))
        database.lay_over(self._db, self.pending)
        row = self._db.execute("SELECT max(age_s) FROM now").fetchone()
        self._clock_base_s = (row[0] or 0) - time.monotonic()

    def clock_s(self) -> int:
        """Seconds that the gateway has run with this outbox.

        Ages are counted on this clock, so a wall clock that jumps expires nothing; time in which
        the gateway was off does not count.
        """
        return int(self._clock_base_s + time.monotonic())

    def start(self) -> Start:
        """Read what a restart needs; the backlog itself stays on disk."""
        return start.read(self._db, self.pending)

    # --- writing

    def apply(self, batch: Batch) -> None:
        """Commit a batch; returns after its sync. Raises OutboxError, nothing then changed."""
        self.commit(Record(batch.change()))

    def is_quick(self, record: Record) -> bool:
        """Whether the commit is but one write to the journal."""
        return self.journal.room(record.body, reserve=record.makes_room) \
            and self.spare.has(record.need_bytes, reserve=record.makes_room) \
            and (record.makes_room or len(self.pending.rows) < PENDING_MOST)

    def commit(self, record: Record) -> None:
        """Commit what was made ready; see `apply`."""
        body, change, makes_room = record.body, record.change, record.makes_room
        if not self.is_quick(record):
            try:
                self.flush()
            except OutboxError:
                if not change.settles():
                    raise
                self._settle(change)
                return
            self.spare.secure(self._db, record.need_bytes, reserve=makes_room)
        if self.journal.room(body, reserve=makes_room):
            self.journal.append(body)
            self.spare.take(record.need_bytes)
            self._fold(change)
            return
        if self.journal.torn:  # what a failed write left here must not come back on top of this
            self.journal.append(NOTHING)
        self._fold(change)  # more than a journal holds
        try:
            self.flush()
        except OutboxError:
            self.pending = Pending()
            raise

    def _settle(self, change: Change) -> None:
        """Take a change past a journal that is full and cannot be let go: a database that cannot
        grow still deletes and marks rows. Raises OutboxError; a part may then be done."""
        before = self.pending
        self.pending = before.copy()
        self.pending.fold(change)
        try:
            self.flush()  # with what now is over, the rest may fit
            return
        except OutboxError:
            self.pending = before
        there, rest = before.split(change)
        self._transact(partial(database.settle, self._db, there))
        before.took(there)
        if not rest.ended and not rest.moved:
            return
        body = batches.encode(rest)
        if not self.journal.room(body, reserve=True):
            raise OutboxError(f"{self.path}: the journal is full and the database cannot grow")
        self.journal.append(body)
        before.fold(rest)

    def forgotten(self) -> None:
        """Note that the upstream holds nothing of ours. Raises OutboxError."""
        self.commit(Record(Change([], forgotten=True)))

    def _fold(self, change: Change) -> None:
        self.pending.fold(change)
        if change.forgotten:
            self.forget = False

    def flush(self) -> None:
        """Let the database take over all that the journal holds.

        Raises OutboxError; whether the database has it is then open until the next flush or start.
        """
        if self.pending or not self.journal.empty():
            self._take_over()

    def _take_over(self) -> None:
        try:
            self._transact(self._write)
        except OutboxError:
            # Perhaps there was no room to note how all of it could be undone.
            for part in self.pending.settled(STEP_ROWS):
                self._transact(partial(database.settle, self._db, part))
            self._transact(self._write)
        self.pending = Pending()
        self.journal.begin()
        self.spare.look(self._db)

    def _write(self) -> None:
        database.write(self._db, self.pending)
        self._db.execute("UPDATE journal SET generation = ?, at = ?, forget = ?",
                         (self.journal.generation, self.journal.at, self.forget))

    def _transact(self, job: Callable[[], None]) -> None:
        """Raises OutboxError, nothing then changed."""
        try:
            self._try(job)
        except sqlite3.Error as error:
            raise OutboxError(str(error)) from error

    def _try(self, job: Callable[[], None]) -> None:
        db = self._db
        try:
            db.execute("BEGIN IMMEDIATE")
            job()
            db.execute("COMMIT")
        except sqlite3.Error:
            try:
                if db.in_transaction:
                    db.execute("ROLLBACK")
            except sqlite3.Error as error:  # the next BEGIN will tell
                log.error("cannot roll back reason=%s", error)
            raise

    # --- the backlog

    def load(self, after_key: int, limit: int, mids: list[int]) -> list[Entry]:
        """The next rows of the backlog in order, about LOAD_BYTES of them at most, each with a
        packet identifier set on disk.

        mids: free packet identifiers, at least `limit`; they are used from the end.
        """
        entries, enough = self._unsent(after_key, limit)
        if not enough and any(key >> LANE_SHIFT == BACKLOG for key in self.pending.rows):
            try:
                self.flush()
                entries, _ = self._unsent(after_key, limit)
            except OutboxError:
                if not entries:
                    raise  # else these first: they make the room that the others need
        wanting = [entry for entry in entries if entry.qos]
        if not wanting:
            return entries
        given = mids[len(mids) - len(wanting):][::-1]
        moved = [(entry.key, entry.key, mid) for entry, mid in zip(wanting, given, strict=True)]
        self.commit(Record(Change([], moved=moved)))
        del mids[len(mids) - len(wanting):]
        for entry, mid in zip(wanting, given, strict=True):
            entry.mid = mid
        return entries

    def _unsent(self, after_key: int, limit: int) -> tuple[list[Entry], bool]:
        """Rows of the backlog that the database has and that never were in memory, and whether
        they are as many or as big as was asked for."""
        touched, first = self.pending.touches, max(after_key, BACKLOG << LANE_SHIFT)
        found: list[Entry] = []
        size = 0
        try:
            rows = self._db.execute(
                f"SELECT {COLUMNS} FROM msg WHERE key > ? AND key < ? AND mid <= 0 ORDER BY key",
                (first, (BACKLOG + 1) << LANE_SHIFT))
            for row in islice((r for r in rows if not touched(r[0])), limit):
                found.append(entry_of(row))
                size += len(found[-1].payload)
                if size >= LOAD_BYTES:
                    return found, True
            return found, len(found) >= limit
        except sqlite3.Error as error:
            raise OutboxError(str(error)) from error

    def oldest(self, after_key: int, route: str, need_bytes: int) -> list[tuple[int, str, int]]:
        """(key, source, bytes) of the oldest unsent backlog rows of a route, need_bytes in all."""
        self.flush()
        found: list[tuple[int, str, int]] = []
        for key, source, size in self._db.execute(
                f"SELECT key, source, {SIZE} FROM msg WHERE key > ? AND "
                "key < ? AND mid <= 0 AND route = ? ORDER BY key",
                (max(after_key, BACKLOG << LANE_SHIFT), (BACKLOG + 1) << LANE_SHIFT, route)):
            if need_bytes <= 0:
                break
            found.append((key, source, size))
            need_bytes -= size
        return found

    def reader(self) -> sqlite3.Connection:
        """The database with `now` up to date, for outbox_view.py to read in the same thread."""
        try:
            self.flush()
        except OutboxError:
            pass  # a full disk: what the journal holds is laid over
        database.lay_over(self._db, self.pending)
        return self._db

    def close(self) -> None:
        """Leave everything in the database."""
        try:
            self.flush()
        except OutboxError as error:
            log.warning("the journal keeps what the database has no room for reason=%r",
                        str(error))
        self._db.close()
        self.journal.close()

