"""Looking into an outbox without changing it: depth and age by route, and all messages, paged."""

from __future__ import annotations

import base64
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gateway.errors import OutboxError
from gateway.outbox import LANE_SHIFT, ROW_OVERHEAD_BYTES
from gateway.routes import BACKLOG, LIVE, REFUSED, URGENT

LANES = {URGENT: "urgent", LIVE: "live", BACKLOG: "backlog", REFUSED: "refused"}
PAGE_ROWS = 500
PAGE_BYTES = 1 << 20


def summary(db: sqlite3.Connection, clock_s: int | None = None) -> dict[str, Any]:
    """Depth, bytes and the oldest of each route and lane. Reads the whole table once.

    clock_s: the outbox's clock now, see Outbox.clock_s; the newest message's where nobody runs.
    """
    rows = db.execute(
        f"SELECT route, key >> {LANE_SHIFT}, count(*), sum(length(topic) + length(payload)), "
        "min(age_s) FROM msg GROUP BY 1, 2 ORDER BY 1, 2").fetchall()
    if clock_s is None:
        clock_s = db.execute("SELECT ifnull(max(age_s), 0) FROM msg").fetchone()[0]
    routes = [{"route": route, "lane": LANES[lane], "depth": count,
               "bytes": size + count * ROW_OVERHEAD_BYTES, "oldest_s": max(0, clock_s - first)}
              for route, lane, count, size, first in rows]
    return {"depth": sum(r["depth"] for r in routes), "bytes": sum(r["bytes"] for r in routes),
            "oldest_s": max((r["oldest_s"] for r in routes), default=0), "routes": routes}


def page(db: sqlite3.Connection, after_key: int) -> dict[str, Any]:
    """The next messages after a key in the order of the outbox, about PAGE_BYTES of them."""
    found, size = [], 0
    for key, qos, retain, route, source, topic, payload in db.execute(
            "SELECT key, qos, retain, route, source, topic, payload FROM msg WHERE key > ? "
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
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=1)
        db.execute("SELECT 1 FROM msg LIMIT 1").fetchone()
    except sqlite3.Error as error:
        raise OutboxError(f"{path}: {error}; nothing has been sent yet, it is in use, or it is "
                          "not an outbox") from error
    return db


def all_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Every message of an outbox that no gateway runs on."""
    db, key = open_closed(path), -1
    while rows := page(db, key)["rows"]:
        yield from rows
        key = rows[-1]["key"]
