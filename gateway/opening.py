"""The outbox's files as they are found at a start: used, or set aside and begun anew."""

from __future__ import annotations

import logging
import os
import sqlite3
from pathlib import Path

import msgspec
from msgspec import Struct, field

from gateway import batch, database, journal, old_log
from gateway.batch import Change
from gateway.errors import OutboxError
from gateway.journal import JOURNAL, RESERVE_BYTES, SMALLEST_BYTES, AlienError, Journal

log = logging.getLogger("tidegate.outbox")


class Opened(Struct):
    """The files, open.

    changes: of the journal, that the database does not have. forget: what the upstream holds of us
    is of an outbox that is gone, in whole or in part. set_aside: what could not be read.
    """

    db: sqlite3.Connection
    journal: Journal
    changes: list[Change] = field(default_factory=list)
    forget: bool = False
    set_aside: Path | None = None


def open_files(path: Path, journal_bytes: int) -> Opened:
    """Open the database and the journal; what is damaged is set aside. Raises OutboxError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutboxError(f"{path}: {error.strerror}: {error.filename}") from error
    aside, db = _connect(path)
    try:
        opened = _open_journal(path, journal_bytes, db)
    except BaseException:
        db.close()
        raise
    opened.set_aside = opened.set_aside or aside
    return opened


def _connect(path: Path) -> tuple[Path | None, sqlite3.Connection]:
    try:
        if path.with_name(path.name + old_log.MOVING).exists():
            old_log.take_over(path)
        try:
            return None, database.connect(path)
        except sqlite3.OperationalError as error:
            if "full" not in str(error) or not path.exists():
                raise
            _make_room(path)
            return None, database.connect(path)
    except sqlite3.DatabaseError as error:
        if "locked" in str(error):
            raise OutboxError(f"{path}: in use; another gateway runs on it") from error
        if isinstance(error, sqlite3.OperationalError):
            raise OutboxError(f"{path}: {error}; is that a file in a folder that can be "
                              "written, and is there room on the disk?") from error
        aside = _put_aside(path, ("", "-journal", "-wal", "-shm", JOURNAL))
        log.error("outbox corrupt, set aside path=%s reason=%s", aside, error)
    return aside, database.connect(path)


def _make_room(path: Path) -> None:
    """Of an outbox of an earlier version on a full disk: take its log over, and give back what of
    the journal is of no worth. Raises OutboxError, sqlite3.Error."""
    log.warning("the disk is full, taking an outbox of an earlier version over page by page")
    old_log.take_over(path)
    db = sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True)
    try:
        applied = database.applied(db)
    finally:
        db.close()
    file = path.with_name(path.name + JOURNAL)
    if applied is not None and file.exists():
        end = max(SMALLEST_BYTES, journal.read(file, *applied).end + RESERVE_BYTES)
        if file.stat().st_size > end:
            os.truncate(file, end)


def _put_aside(path: Path, suffixes: tuple[str, ...]) -> Path:
    for number in range(1, 1000):
        aside = path.with_name(f"{path.name}.corrupt-{number}")
        if not any(aside.with_name(aside.name + s).exists() for s in ("", JOURNAL)):
            break
    for suffix in suffixes:
        part = path.with_name(path.name + suffix)
        if part.exists():
            part.rename(aside.with_name(aside.name + suffix))
    return aside


def _open_journal(path: Path, size_bytes: int, db: sqlite3.Connection) -> Opened:
    file = path.with_name(path.name + JOURNAL)
    applied = database.applied(db)
    assert applied is not None
    opened = Opened(db, Journal(file, size_bytes))
    opened.forget = bool(db.execute("SELECT forget FROM journal").fetchone()[0])
    try:
        found = opened.journal.read(*applied)
        for body in found.bodies:
            change = batch.decode(body)
            opened.changes.append(change)
            opened.forget &= not change.forgotten
        if not found.damaged:
            return opened
        reason = "a record is unreadable; the others were taken over"
    except (AlienError, msgspec.MsgspecError) as error:
        reason = str(error)
    opened.journal.close()
    opened.forget = True
    _must_forget(db)
    aside = _put_aside(path, (JOURNAL,))
    opened.set_aside = aside.with_name(aside.name + JOURNAL)
    log.error("journal set aside path=%s reason=%r", opened.set_aside, reason)
    opened.journal = Journal(file, size_bytes)
    opened.journal.read(*applied)
    return opened


def _must_forget(db: sqlite3.Connection) -> None:
    """Note it before the journal goes: it may have known packet identifiers."""
    try:
        db.execute("UPDATE journal SET forget = 1")
    except sqlite3.Error as error:  # with the next transaction then, see Outbox.flush
        log.warning("cannot note that the upstream has to forget reason=%r", str(error))
