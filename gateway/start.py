"""What a restart needs of the outbox, read back from the disk; the backlog itself stays there."""

from __future__ import annotations

import sqlite3
from bisect import bisect_right
from itertools import accumulate

from msgspec import Struct

from gateway import database
from gateway.batch import ID_MASK, LANE_SHIFT, SIZE, Entry, Pending, Row
from gateway.database import COLUMNS
from gateway.routes import BACKLOG, REFUSED
from gateway.wire import Publish
from gateway.zeros import Key, Saved


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


def read(db: sqlite3.Connection, pending: Pending) -> Start:
    """Read it from the database, with what is pending laid over it."""
    database.lay_over(db, pending)
    first = BACKLOG << LANE_SHIFT
    runs = dict(db.execute("SELECT first, last FROM released"))
    depth, used, newest = db.execute(
        f"SELECT count(*), ifnull(sum({SIZE}), 0), "
        f"ifnull(max(key & {ID_MASK}), 0) FROM now").fetchone()
    # Above every noted run too: a part of its rows may be gone, and their keys must stay so.
    newest = max([newest, *(last & ID_MASK for last in runs.values()),
                  *(key & ID_MASK for key in pending.released)])
    zeros: dict[Key, Saved | None] = {
        (d, lf, b): (z, a, u, t) for d, lf, b, z, a, u, t in db.execute("SELECT * FROM zero")}
    seen = {(d, lf, b): s for d, lf, b, s in db.execute("SELECT * FROM seen")}
    retained = {t: (q, p) for t, q, p in db.execute("SELECT topic, qos, payload FROM retained")}
    wills = {c: (t, q, bool(r), p) for c, t, q, r, p in db.execute("SELECT * FROM will")}
    return Start(
        entries=_entries(db, pending, runs),
        backlog=dict(db.execute("SELECT source, count(*) FROM now WHERE key >= ? AND key < ? "
                                "GROUP BY 1", (first, first + (1 << LANE_SHIFT)))),
        seen={key: seq for key, seq in (seen | pending.seen).items() if seq},
        received=_received(db, pending),
        retained={t: Publish(t, m[1], m[0], True, False, 0)
                  for t, m in (retained | pending.retained).items() if m is not None},
        wills={c: Publish(w[0], w[3], w[1], w[2], False, 0)
               for c, w in (wills | pending.wills).items() if w is not None},
        next_id=newest + 1, depth=depth, used_bytes=used,
        refused=db.execute("SELECT count(*) FROM now WHERE key >= ?",
                           (REFUSED << LANE_SHIFT,)).fetchone()[0],
        zeros={key: saved for key, saved in (zeros | pending.zeros).items() if saved is not None})


def entry_of(row: Row) -> Entry:
    """Make the entry of a row."""
    key, mid, qos, retain, age_s, route, source, topic, payload = row
    return Entry(key, max(mid, 0), qos, bool(retain), False, age_s, route, source, topic, payload)


def _entries(db: sqlite3.Connection, pending: Pending, runs: dict[int, int]) -> list[Entry]:
    first = BACKLOG << LANE_SHIFT
    entries = [entry_of(row) for row in db.execute(
        f"SELECT {COLUMNS} FROM now WHERE key < ? "
        f"UNION ALL SELECT {COLUMNS} FROM now WHERE key >= ? AND mid > 0 ORDER BY 1",
        (first, first))]
    firsts = sorted(runs)
    lasts = list(accumulate((runs[first] for first in firsts), max))  # runs may overlap
    for entry in entries:
        at = bisect_right(firsts, entry.key) - 1
        entry.released = entry.key in pending.released or (at >= 0 and entry.key <= lasts[at])
    return entries


def _received(db: sqlite3.Connection, pending: Pending) -> dict[str, set[int]]:
    received: dict[str, set[int]] = {}
    for client, mid in db.execute("SELECT client, mid FROM received"):
        received.setdefault(client, set()).add(mid)
    for (client, mid), there in pending.received.items():
        known = received.setdefault(client, set())
        known.add(mid) if there else known.discard(mid)
    return {client: mids for client, mids in received.items() if mids}
