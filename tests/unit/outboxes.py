"""What the tests of the outbox begin and begin again with."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, cast

from gateway import database
from gateway.batch import LANE_SHIFT, Batch, Entry
from gateway.errors import OutboxError
from gateway.journal import PAGE, RESERVE_BYTES
from gateway.outbox import Outbox
from gateway.routes import LIVE

SMALL = RESERVE_BYTES + 4 * PAGE  # a journal for few commits


def entry(number: int, lane: int = LIVE, *, mid: int = 0, qos: int = 2, source: str = "s",
          route: str = "#", payload: bytes = b"payload", age_s: int = 0) -> Entry:
    return Entry(lane << LANE_SHIFT | number, mid, qos, False, False, age_s, route, source, "t",
                 payload)


def crashed(outbox: Outbox) -> Outbox:
    """As kill -9 leaves it."""
    outbox._db.close()
    outbox.journal.close()
    return Outbox(outbox.path)


def reopened(outbox: Outbox) -> Outbox:
    outbox.close()
    return Outbox(outbox.path)


def filled(outbox: Outbox) -> int:
    """Commit messages until no more is taken; return how many were."""
    for number in range(1, 1000):
        try:
            outbox.apply(Batch(insert=[entry(number, mid=number)]))
        except OutboxError:
            return number - 1
    raise AssertionError("there was no end")


class LostSync:
    """Stands in for an outbox's database, on a disk that has a commit and says it could not sync
    it. SQLite then takes the commit back in memory and goes on; after a crash it is there.

    failing: whether the disk does so now.
    """

    def __init__(self, outbox: Outbox) -> None:
        self.failing = False
        self._path = outbox.path
        self._db = outbox._db
        self._found: dict[Path, bytes] | None = None  # by a crash, where that is not what we see
        outbox._db = cast(Any, self)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        if sql != "COMMIT" or not self.failing:
            cursor = self._db.execute(sql, *values)
            if sql == "COMMIT":
                self._found = None  # written over by this one
            return cursor
        before = self._files()
        self._db.execute("COMMIT")
        self._found = self._files()
        self._db.close()
        self._put(before)
        self._db = database.connect(self._path)
        raise sqlite3.OperationalError("disk I/O error")

    def close(self) -> None:
        """As a kill leaves it."""
        self._db.close()
        if self._found is not None:
            self._put(self._found)

    def _files(self) -> dict[Path, bytes]:
        names = (self._path, self._path.with_name(self._path.name + "-journal"))
        return {name: name.read_bytes() if name.exists() else b"" for name in names}

    def _put(self, files: dict[Path, bytes]) -> None:
        for name, data in files.items():
            name.write_bytes(data)
