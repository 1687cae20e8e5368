"""A disk that is slow, full or killed when the run says so, and the gateway's parts that use it.

A job of the outbox is held until the run lets the disk do it, and what became of it is told
later: a crash in between leaves on the disk what nobody was told of.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from gateway import database
from gateway.batch import Change, Entry, Row
from gateway.commit import Committer
from gateway.drain import Drain
from gateway.errors import OutboxError
from gateway.journal import PAGE
from gateway.outbox import Outbox, Record
from gateway.pacer import Pacer
from gateway.queue import Mids, Queue
from gateway.start import Start

RESERVE_BYTES = 2 * PAGE  # of the journal
JOURNAL_BYTES = RESERVE_BYTES + 8 * PAGE
FITS = 0.1  # of the tries: what a journal holds fits into the database of a full disk
T = TypeVar("T")


class Disk:
    """full: it takes only what makes room; broken: not even that. age_s: the outbox's clock."""

    def __init__(self, rng: random.Random, reached: Counter[str]) -> None:
        self.rng = rng
        self.full = self.broken = False
        self.age_s = 0
        self.reached = reached
        self.held: deque[tuple[Callable[[], Any], asyncio.Future[Any]]] = deque()
        self._told: deque[tuple[asyncio.Future[Any], Any, OutboxError | None]] = deque()

    def hold(self, job: Callable[[], T]) -> asyncio.Future[T]:
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.held.append((job, future))
        return future

    def work(self) -> None:
        """Do the next job; who wanted it is told later."""
        if not self.held:
            return
        job, future = self.held.popleft()
        try:
            self._told.append((future, job(), None))
        except OutboxError as error:
            self._told.append((future, None, error))

    def tell(self) -> None:
        """Tell what became of the oldest job that is done."""
        if not self._told:
            return
        future, result, error = self._told.popleft()
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    def idle(self) -> bool:
        return not self.held and not self._told

    def crash(self) -> None:
        """The gateway is gone, and with it what it wanted; a new one finds room."""
        self.held.clear()
        self._told.clear()
        self.full = self.broken = False

    def check(self, *, makes_room: bool) -> None:
        """Raises OutboxError where there is no room for a write."""
        if self.full and (self.broken or not makes_room):
            self.reached["failed commits"] += 1
            raise OutboxError("the disk is full")


class DiskOutbox(Outbox):
    """The real outbox with a small journal, on a disk that may be full."""

    def __init__(self, disk: Disk, path: Path) -> None:
        self._disk = disk
        super().__init__(path, JOURNAL_BYTES)
        self._base_s = super().clock_s() - disk.age_s

    def clock_s(self) -> int:
        return self._base_s + self._disk.age_s

    def commit(self, record: Record) -> None:
        self._disk.check(makes_room=record.makes_room)
        super().commit(record)

    def flush(self) -> None:
        disk = self._disk
        disk.check(makes_room=not (disk.full and self.pending.rows) or disk.rng.random() < FITS)
        super().flush()

    def _settle(self, change: Change) -> None:
        self._disk.check(makes_room=True)
        self._disk.reached["past the journal"] += 1
        super()._settle(change)

    def rows(self) -> list[Row]:
        """All that is on the disk, by key."""
        database.lay_over(self._db, self.pending)
        return self._db.execute(f"SELECT {database.COLUMNS} FROM now ORDER BY key").fetchall()

    def kill(self) -> None:
        """As kill -9 leaves it."""
        self._db.close()
        self.journal.close()


class HeldCommitter(Committer):
    """Hands its jobs to the disk instead of to a thread."""

    def __init__(self, disk: Disk, outbox: Outbox, pacer: Pacer) -> None:
        super().__init__(outbox, pacer)
        self._disk = disk

    async def read(self, job: Callable[[], T]) -> T:
        self._reading += 1
        try:
            return await self._disk.hold(job)
        finally:
            self._reading -= 1

    def kill(self) -> None:
        self._thread.shutdown()
        if self._lazy is not None:
            self._lazy.cancel()


class SmallQueue(Queue):
    """Takes packet identifiers few at a time, since there are few.

    put_aside: keys of rows that are to be set aside, perhaps not yet on disk.
    """

    def __init__(self, start: Start, max_bytes: int, mids: Mids) -> None:
        super().__init__(start, max_bytes, mids)
        self.put_aside: set[int] = set()

    def set_aside(self, entry: Entry) -> tuple[int, int, int]:
        self.put_aside.add(entry.key)
        return super().set_aside(entry)

    def _more_room(self) -> bool:
        self._room = self._mids.take_mids(3)[::-1]
        return bool(self._room)


class CountingDrain(Drain):
    """Counts what goes out before its commit, and what has to wait."""

    reached: Counter[str]

    def offer(self, entries: list[Entry], *, early: bool) -> bool:
        took = super().offer(entries, early=early)
        self.reached["early sends" if took else "late sends"] += len(entries)
        return took
