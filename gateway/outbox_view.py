"""Looking into an outbox without changing it: depth and age by route, and all messages, paged."""

from __future__ import annotations

import base64
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from gateway import database
from gateway.batch import LANE_SHIFT, SIZE, Pending, decode
from gateway.errors import OutboxError
from gateway.journal import JOURNAL, read
from gateway.routes import BACKLOG, LIVE, REFUSED, URGENT

LANES = {URGENT: "urgent", LIVE: "live", BACKLOG: "backlog", REFUSED: "refused"}
PAGE_ROWS = 500
STEP_ROWS = 20_000
PAGE_BYTES = 1 << 20


class Summary:
    """Depth, bytes and the oldest of each route and lane, read in steps: a full outbox takes a
    card many seconds, and commits have to go on between."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, int], list[int]] = {}  # messages, bytes, age_s of the oldest
        self._key = self._newest_s = -1

    def step(self, db: sqlite3.Connection) -> bool:
        """Read the next STEP_ROWS; False where there are none."""
        rows = db.execute(
            f"SELECT route, key >> {LANE_SHIFT}, count(*), sum({SIZE}), "
            "min(age_s), max(age_s), max(key) FROM (SELECT * FROM now WHERE key > ? ORDER BY key "
            "LIMIT ?) GROUP BY 1, 2", (self._key, STEP_ROWS)).fetchall()
        for route, lane, count, size, first_s, last_s, key in rows:
            had = self._found.setdefault((route, lane), [0, 0, first_s])
            had[0] += count
            had[1] += size
            had[2] = min(had[2], first_s)
            self._key, self._newest_s = max(self._key, key), max(self._newest_s, last_s)
        return bool(rows)

    def result(self, clock_s: int | None = None) -> dict[str, Any]:
        """What was read.

        clock_s: the outbox's clock now, see Outbox.clock_s; where nobody runs it, the newest
        message's.
        """
        now_s = self._newest_s if clock_s is None else clock_s
        routes: list[dict[str, Any]] = [
            {"route": route, "lane": LANES[lane], "depth": count, "bytes": size,
             "oldest_s": max(0, now_s - first_s)}
            for (route, lane), (count, size, first_s) in sorted(self._found.items())]
        return {"depth": sum(r["depth"] for r in routes), "bytes": sum(r["bytes"] for r in routes),
                "oldest_s": max((r["oldest_s"] for r in routes), default=0), "routes": routes}


def page(db: sqlite3.Connection, after_key: int) -> dict[str, Any]:
    """The next messages after a key in the order of the outbox, about PAGE_BYTES of them."""
    found, size = [], 0
    for key, qos, retain, route, source, topic, payload in db.execute(
            "SELECT key, qos, retain, route, source, topic, payload FROM now WHERE key > ? "
            "ORDER BY key LIMIT ?", (after_key, PAGE_ROWS)):
        row = {"key": key, "lane": LANES[key >> LANE_SHIFT], "qos": qos, "retain": bool(retain),
               "route": route, "source": source, "topic": topic}
        try:
            row["payload"] = payload.decode()
        except UnicodeDecodeError:
            row["payload_base64"] = base64.b64encode(payload).decode()
        found.append(row)
        size += len(payload)
        if size > PAGE_BYTES:
            break
    return {"rows": found}


def open_closed(path: Path) -> sqlite3.Connection:
    """An outbox that no gateway runs on, to be read. Raises OutboxError."""
    try:
        db = database.look(path)
        db.execute("SELECT 1 FROM msg LIMIT 1").fetchone()
        pending = Pending()
        if (applied := database.applied(db)) is not None:
            journal = path.with_name(path.name + JOURNAL)
            for body in read(journal, *applied).bodies:
                pending.fold(decode(body))
        database.lay_over(db, pending)
    except (sqlite3.Error, msgspec.MsgspecError) as error:
        raise OutboxError(f"{path}: {error}; nothing has been sent yet, it is in use, or it is "
                          "not an outbox") from error
    return db


def closed_summary(path: Path) -> dict[str, Any]:
    """The summary of an outbox that no gateway runs on."""
    found = Summary()
    with closing(open_closed(path)) as db:
        while found.step(db):
            pass
    return found.result()


def all_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Every message of an outbox that no gateway runs on."""
    with closing(open_closed(path)) as db:
        key = -1
        while rows := page(db, key)["rows"]:
            yield from rows
            key = rows[-1]["key"]
