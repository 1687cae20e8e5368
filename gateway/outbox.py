"""The outbox: what is acknowledged to devices and not yet by the upstream, on disk.

A commit goes to the journal, in one write and one sync. What is still there when the journal is
full goes to the database, in one transaction; most messages have been delivered by then and never
do. After a crash the journal is read back.

    apply ──▶ journal ──full──▶ database          start = database + journal

Everything here blocks; gateway/commit.py calls it from one thread at a time.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from bisect import bisect_right
from collections.abc import Callable
from functools import partial
from itertools import accumulate, islice
from pathlib import Path

import msgspec
from msgspec import Struct

from gateway import batch as batches
from gateway import database
from gateway.batch import ID_MASK, LANE_SHIFT, SIZE, Batch, Change, Entry, Pending, Row
from gateway.database import COLUMNS
from gateway.errors import OutboxError
from gateway.journal import SIZE_BYTES, AlienError, Journal
from gateway.routes import BACKLOG, REFUSED
from gateway.wire import Publish
from gateway.zeros import Key, Saved

log = logging.getLogger("tidegate.outbox")

PENDING_MOST = 8192  # messages that only the journal has; bounds memory
LOAD_BYTES = 8 * 2**20  # of payload, read from the backlog at once
NOTHING = batches.encode(Change([]))
JOURNAL = "-batches"  # behind the database's name; SQLite takes -journal, -wal and -shm


class Start(Struct):
    """What the outbox held when it was opened."""

    entries: list[Entry]  # those with a packet identifier or in a lane that lives in memory
    backlog: dict[str, int]  # source → rows of the backlog lane
    seen: dict[Key, int]
    received: dict[str, set[int]]
    retained: dict[str, Publish]
    wills: dict[str, Publish]
    next_id: int
    depth: int
    used_bytes: int
    refused: int = 0
    zeros: dict[Key, Saved] = {}


class Record:
    """A change made ready for the journal."""

    def __init__(self, change: Change) -> None:
        self.change, self.body = change, batches.encode(change)
        self.makes_room = not change.rows


class Outbox:
    """A SQLite file and a journal in front of it. Raises OutboxError where the disk does."""

    def __init__(self, path: Path, journal_bytes: int = SIZE_BYTES) -> None:
        self.path = path
        self.set_aside: Path | None = None
        self.pending = Pending()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutboxError(f"{path}: {error.strerror}: {error.filename}") from error
        self._db = self._connect()
        # forget: what the upstream holds of us is of an outbox that is gone, in whole or in part
        self.forget = bool(self._db.execute("SELECT forget FROM journal").fetchone()[0])
        try:
            self.journal = self._open_journal(journal_bytes)
        except BaseException:
            self._db.close()
            raise
        try:
            self.flush()
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

    # --- opening

    def _connect(self) -> sqlite3.Connection:
        try:
            return database.connect(self.path)
        except sqlite3.DatabaseError as error:
            if "locked" in str(error):
                raise OutboxError(f"{self.path}: in use; another gateway runs on it") from error
            if isinstance(error, sqlite3.OperationalError):
                raise OutboxError(f"{self.path}: {error}; is that a file in a folder that can be "
                                  "written, and is there room on the disk?") from error
            self.set_aside = self._put_aside(("", "-wal", "-shm", JOURNAL))
            log.error("outbox corrupt, set aside path=%s reason=%s", self.set_aside, error)
        return database.connect(self.path)

    def _put_aside(self, suffixes: tuple[str, ...]) -> Path:
        for number in range(1, 1000):
            aside = self.path.with_name(f"{self.path.name}.corrupt-{number}")
            if not any(aside.with_name(aside.name + s).exists() for s in ("", JOURNAL)):
                break
        for suffix in suffixes:
            part = self.path.with_name(self.path.name + suffix)
            if part.exists():
                part.rename(aside.with_name(aside.name + suffix))
        return aside

    def _open_journal(self, size_bytes: int) -> Journal:
        path = self.path.with_name(self.path.name + JOURNAL)
        journal = Journal(path, size_bytes)
        applied = database.applied(self._db)
        assert applied is not None
        try:
            found = journal.read(*applied)
            for body in found.bodies:
                self._fold(batches.decode(body))
            if not found.damaged:
                return journal
            reason = "a record is unreadable; the others were taken over"
        except (AlienError, msgspec.MsgspecError) as error:
            reason = str(error)
        journal.close()
        self._must_forget()
        aside = self._put_aside((JOURNAL,))
        self.set_aside = aside.with_name(aside.name + JOURNAL)
        log.error("journal set aside path=%s reason=%r", self.set_aside, reason)
        journal = Journal(path, size_bytes)
        journal.read(*applied)
        return journal

    def _must_forget(self) -> None:
        """Note it before the journal goes: it may have known packet identifiers."""
        self.forget = True
        try:
            self._db.execute("UPDATE journal SET forget = 1")
        except sqlite3.Error as error:  # with the next transaction then, see `_write`
            log.warning("cannot note that the upstream has to forget reason=%r", str(error))

    def start(self) -> Start:
        """Read what a restart needs; the backlog itself stays on disk."""
        db, first, pending = self._db, BACKLOG << LANE_SHIFT, self.pending
        database.lay_over(db, pending)
        runs = dict(db.execute("SELECT first, last FROM released"))
        rows = db.execute(f"SELECT {COLUMNS} FROM now WHERE key < ? "
                          f"UNION ALL SELECT {COLUMNS} FROM now WHERE key >= ? AND mid > 0 "
                          "ORDER BY 1", (first, first))
        entries = [_entry(row) for row in rows]
        firsts = sorted(runs)
        lasts = list(accumulate((runs[first] for first in firsts), max))  # runs may overlap
        for entry in entries:
            at = bisect_right(firsts, entry.key) - 1
            entry.released = entry.key in pending.released \
                or (at >= 0 and entry.key <= lasts[at])
        received: dict[str, set[int]] = {}
        for client, mid in db.execute("SELECT client, mid FROM received"):
            received.setdefault(client, set()).add(mid)
        for (client, mid), there in pending.received.items():
            known = received.setdefault(client, set())
            known.add(mid) if there else known.discard(mid)
        depth, used, newest = db.execute(
            f"SELECT count(*), ifnull(sum({SIZE}), 0), "
            f"ifnull(max(key & {ID_MASK}), 0) FROM now").fetchone()
        # Above every noted run too: a part of its rows may be gone, and their keys must stay so.
        newest = max([newest, *(last & ID_MASK for last in runs.values()),
                      *(key & ID_MASK for key in pending.released)])
        zeros: dict[Key, Saved | None] = {
            (d, lf, b): (z, a, u, t) for d, lf, b, z, a, u, t in db.execute("SELECT * FROM zero")}
        seen = {(d, lf, b): s for d, lf, b, s in db.execute("SELECT * FROM seen")}
        retained = {t: (q, p) for t, q, p in
                    db.execute("SELECT topic, qos, payload FROM retained")}
        wills = {c: (t, q, bool(r), p) for c, t, q, r, p in db.execute("SELECT * FROM will")}
        return Start(
            entries=entries,
            backlog=dict(db.execute("SELECT source, count(*) FROM now WHERE key >= ? AND key < ? "
                                    "GROUP BY 1", (first, first + (1 << LANE_SHIFT)))),
            seen={key: seq for key, seq in (seen | pending.seen).items() if seq},
            received={client: mids for client, mids in received.items() if mids},
            retained={t: Publish(t, m[1], m[0], True, False, 0)
                      for t, m in (retained | pending.retained).items() if m is not None},
            wills={c: Publish(w[0], w[3], w[1], w[2], False, 0)
                   for c, w in (wills | pending.wills).items() if w is not None},
            next_id=newest + 1, depth=depth, used_bytes=used,
            refused=db.execute("SELECT count(*) FROM now WHERE key >= ?",
                               (REFUSED << LANE_SHIFT,)).fetchone()[0],
            zeros={key: saved for key, saved in (zeros | pending.zeros).items()
                   if saved is not None})

    # --- writing

    def apply(self, batch: Batch) -> None:
        """Commit a batch; returns after its sync. Raises OutboxError, nothing then changed."""
        self.commit(Record(batch.change()))

    def is_quick(self, record: Record) -> bool:
        """Whether the commit is but one write to the journal."""
        return self.journal.room(record.body, reserve=record.makes_room) \
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
        if self.journal.room(body, reserve=makes_room):
            self.journal.append(body)
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
        before.fold(there)
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
        if not self.pending and self.journal.empty():
            return
        self._transact(self._write)
        self.pending = Pending()
        self.journal.begin()

    def _write(self) -> None:
        database.write(self._db, self.pending)
        self._db.execute("UPDATE journal SET generation = ?, at = ?, forget = ?",
                         (self.journal.generation, self.journal.at, self.forget))

    def _transact(self, job: Callable[[], None]) -> None:
        """Raises OutboxError, nothing then changed."""
        try:
            self._try(job)
        except sqlite3.Error:
            # A log that cannot grow can begin anew once its pages are in the database.
            try:
                self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
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
                f"SELECT {COLUMNS} FROM msg WHERE key > ? AND key < ? AND mid = 0 ORDER BY key",
                (first, (BACKLOG + 1) << LANE_SHIFT))
            for row in islice((r for r in rows if not touched(r[0])), limit):
                found.append(_entry(row))
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
                "key < ? AND mid = 0 AND route = ? ORDER BY key",
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


def _entry(row: Row) -> Entry:
    key, mid, qos, retain, age_s, route, source, topic, payload = row
    return Entry(key, mid, qos, bool(retain), False, age_s, route, source, topic, payload)
