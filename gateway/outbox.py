"""The outbox: the only file that writes the disk. SQLite, one transaction a batch.

A message is one row of `msg` from before its acknowledgement to the device until the upstream's
PUBACK or PUBCOMP. `key` is `lane << 56 | id`, so that one b-tree keeps every lane in order and a
finished run of messages is one range delete. `mid` is the packet identifier it was given, on disk
before it is first sent; `released` says that the PUBREC came, and stands before the PUBREL goes.

Everything here blocks; gateway/commit.py calls it from one thread of its own.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from bisect import bisect_right
from pathlib import Path

from msgspec import Struct, field

from gateway.devices import Key
from gateway.errors import OutboxError
from gateway.routes import BACKLOG, REFUSED
from gateway.wire import Publish

log = logging.getLogger("tidegate.outbox")

LANE_SHIFT = 56
SCHEMA_VERSION = 1
# A commit writes whole pages; at 50 messages a second small ones write half as much as 4096 would,
# for 1 µs of CPU a message at full load.
PAGE_BYTES = 1024
WAL_PAGES = 8192  # between checkpoints, each of which holds a commit up
PRUNE_EVERY = 256  # runs noted, after which those without rows are thrown away
ROW_OVERHEAD_BYTES = 48  # what a row costs beside topic and payload, for the cap

_SCHEMA = """
CREATE TABLE msg(key INTEGER PRIMARY KEY, mid INTEGER, qos INTEGER, retain INTEGER,
  age_s INTEGER, route TEXT, source TEXT, topic TEXT, payload BLOB);
CREATE TABLE released(first INTEGER PRIMARY KEY, last INTEGER);
CREATE TABLE seen(device TEXT, life TEXT, boot INTEGER, seq INTEGER,
  PRIMARY KEY(device, life, boot)) WITHOUT ROWID;
CREATE TABLE received(client TEXT, mid INTEGER, PRIMARY KEY(client, mid)) WITHOUT ROWID;
CREATE TABLE retained(topic TEXT PRIMARY KEY, qos INTEGER, payload BLOB) WITHOUT ROWID;
CREATE TABLE will(client TEXT PRIMARY KEY, topic TEXT, qos INTEGER, retain INTEGER, payload BLOB)
  WITHOUT ROWID;
"""
_COLUMNS = "key, mid, qos, retain, age_s, route, source, topic, payload"


class Entry(Struct, gc=False):
    """One message on its way upstream.

    key: lane and id. mid: packet identifier, 0 where it has none (yet, or at QoS 0). age_s: the
    outbox's own clock when it came, see `Outbox.clock_s`. route: the route's filter. source: whose
    order it belongs to. tries: how often the link was given up for want of its acknowledgement.
    taken: its PUBREC came, `released` is on its way to the disk.
    """

    key: int
    mid: int
    qos: int
    retain: bool
    released: bool
    age_s: int
    route: str
    source: str
    topic: str
    payload: bytes
    sent: bool = False
    tries: int = 0
    sent_s: float = 0.0
    taken: bool = False

    @property
    def lane(self) -> int:
        return self.key >> LANE_SHIFT

    def row(self) -> tuple[int, int, int, bool, int, str, str, str, bytes]:
        return (self.key, self.mid, self.qos, self.retain, self.age_s, self.route, self.source,
                self.topic, self.payload)

    def size(self) -> int:
        """Bytes it takes of the outbox's cap."""
        return len(self.payload) + len(self.topic) + ROW_OVERHEAD_BYTES


class Batch(Struct):
    """Everything one transaction changes. None as a value means: delete."""

    insert: list[Entry] = field(default_factory=list)
    release: list[Entry] = field(default_factory=list)
    done: list[Entry] = field(default_factory=list)
    moved: list[tuple[int, int, int]] = field(default_factory=list)  # (old key, new key, mid)
    drop: list[int] = field(default_factory=list)  # keys
    seen: dict[Key, int] = field(default_factory=dict)
    retained: dict[str, Publish | None] = field(default_factory=dict)
    wills: dict[str, Publish | None] = field(default_factory=dict)
    received: dict[tuple[str, int], bool | None] = field(default_factory=dict)

    def empty(self) -> bool:
        return not (self.insert or self.release or self.done or self.moved or self.drop
                    or self.seen or self.retained or self.wills or self.received)


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


class Outbox:
    """A SQLite file in WAL mode with synchronous=FULL: a commit returns after its fsync."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.set_aside: Path | None = None
        self.new = False  # made just now: nothing is known of what was sent before
        self._runs_noted = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutboxError(f"{path}: {error.strerror}: {error.filename}") from error
        try:
            self._db = self._open()
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise OutboxError(f"{path}: {error}; is the folder writable, the disk full, or "
                                  "another gateway running on it?") from error
            self.set_aside = self._put_aside()
            log.error("outbox corrupt, set aside path=%s reason=%s", self.set_aside, error)
            self._db = self._open()
        row = self._db.execute("SELECT max(age_s) FROM msg").fetchone()
        self._clock_base_s = (row[0] or 0) - time.monotonic()

    def clock_s(self) -> int:
        """Seconds that the gateway has run with this outbox.

        Ages are counted on this clock, so a wall clock that jumps expires nothing; time in which
        the gateway was off does not count.
        """
        return int(self._clock_base_s + time.monotonic())

    def _open(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, isolation_level=None, check_same_thread=False, timeout=2)
        try:
            db.execute("PRAGMA locking_mode=EXCLUSIVE")
            db.execute(f"PRAGMA page_size={PAGE_BYTES}")
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=FULL")
            db.execute(f"PRAGMA wal_autocheckpoint={WAL_PAGES}")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > SCHEMA_VERSION:
                raise OutboxError(f"{self.path}: written by a newer Tidegate (format {version}, "
                                  f"this one reads up to {SCHEMA_VERSION}); install that version")
            self.new = version == 0
            if version == 0:
                db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")
            problem = db.execute("PRAGMA quick_check(1)").fetchone()[0]
            if problem != "ok":
                raise sqlite3.DatabaseError(str(problem))
        except BaseException:
            db.close()
            raise
        return db

    def _put_aside(self) -> Path:
        for number in range(1, 1000):
            aside = self.path.with_name(f"{self.path.name}.corrupt-{number}")
            if not aside.exists():
                break
        for suffix in ("", "-wal", "-shm"):
            part = self.path.with_name(self.path.name + suffix)
            if part.exists():
                part.rename(aside.with_name(aside.name + suffix))
        return aside

    def start(self) -> Start:
        """Read what a restart needs; the backlog itself stays on disk."""
        db, first = self._db, BACKLOG << LANE_SHIFT
        # A run that outlived its rows must never speak of new ones: see `newest` below.
        try:
            self._prune()
        except sqlite3.OperationalError as error:  # a full disk; what is there can be delivered
            log.warning("cannot tidy the outbox reason=%r", str(error))
        runs = dict(db.execute("SELECT first, last FROM released"))
        rows = db.execute(f"SELECT {_COLUMNS} FROM msg WHERE key < ? "
                          f"UNION ALL SELECT {_COLUMNS} FROM msg WHERE key >= ? AND mid > 0 "
                          "ORDER BY 1", (first, first))
        entries = [_entry(row) for row in rows]
        firsts = sorted(runs)
        for entry in entries:
            at = bisect_right(firsts, entry.key) - 1
            if at >= 0 and entry.key <= runs[firsts[at]]:
                entry.released = True
        received: dict[str, set[int]] = {}
        for client, mid in db.execute("SELECT client, mid FROM received"):
            received.setdefault(client, set()).add(mid)
        mask = (1 << LANE_SHIFT) - 1
        depth, used, newest = db.execute(
            "SELECT count(*), ifnull(sum(length(topic) + length(payload)), 0), "
            f"ifnull(max(key & {mask}), 0) FROM msg").fetchone()
        # Above every noted run too: a part of its rows may be gone, and their keys must stay so.
        newest = max([newest, *(last & mask for last in runs.values())])
        return Start(
            entries=entries,
            backlog=dict(db.execute("SELECT source, count(*) FROM msg WHERE key >= ? AND key < ? "
                                    "GROUP BY 1", (first, first + (1 << LANE_SHIFT)))),
            seen={(d, lf, b): s for d, lf, b, s in db.execute("SELECT * FROM seen")},
            received=received,
            retained={t: Publish(t, p, q, True, False, 0)
                      for t, q, p in db.execute("SELECT topic, qos, payload FROM retained")},
            wills={c: Publish(t, p, q, bool(r), False, 0)
                   for c, t, q, r, p in db.execute("SELECT * FROM will")},
            next_id=newest + 1, depth=depth, used_bytes=used + depth * ROW_OVERHEAD_BYTES,
            refused=db.execute("SELECT count(*) FROM msg WHERE key >= ?",
                               (REFUSED << LANE_SHIFT,)).fetchone()[0])

    def _prune(self) -> None:
        """Throw away noted runs whose rows are all gone."""
        self._runs_noted = 0
        self._db.execute("DELETE FROM released WHERE NOT EXISTS "
                         "(SELECT 1 FROM msg WHERE key BETWEEN first AND last)")

    def apply(self, batch: Batch) -> None:
        """Commit a batch; returns after its fsync. Raises OutboxError, nothing then changed."""
        db = self._db
        try:
            db.execute("BEGIN IMMEDIATE")
            if batch.insert:
                db.executemany("INSERT INTO msg VALUES(?,?,?,?,?,?,?,?,?)",
                               [entry.row() for entry in batch.insert])
            if batch.release:
                # As runs, beside the messages: their pages need not be written again.
                runs = _ranges(batch.release)
                db.executemany("INSERT INTO released VALUES(?,?) ON CONFLICT(first) DO UPDATE "
                               "SET last = max(last, excluded.last)", runs)
                self._runs_noted += len(runs)
            if batch.done:
                db.executemany("DELETE FROM msg WHERE key BETWEEN ? AND ?", _ranges(batch.done))
                if self._runs_noted >= PRUNE_EVERY:
                    self._prune()
            if batch.moved:
                db.executemany("UPDATE msg SET key = ?2, mid = ?3 WHERE key = ?1", batch.moved)
            if batch.drop:
                db.executemany("DELETE FROM msg WHERE key = ?", [(key,) for key in batch.drop])
            self._apply_rest(batch)
            db.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            raise OutboxError(str(error)) from error

    def _apply_rest(self, batch: Batch) -> None:
        db = self._db
        if batch.seen:
            db.executemany("INSERT OR REPLACE INTO seen VALUES(?,?,?,?)",
                           [(*key, seq) for key, seq in batch.seen.items()])
        for (client, mid), there in batch.received.items():
            db.execute("INSERT OR IGNORE INTO received VALUES(?,?)" if there else
                       "DELETE FROM received WHERE client = ? AND mid = ?", (client, mid))
        for topic, message in batch.retained.items():
            if message is None:
                db.execute("DELETE FROM retained WHERE topic = ?", (topic,))
            else:
                db.execute("INSERT OR REPLACE INTO retained VALUES(?,?,?)",
                           (topic, message.qos, message.payload))
        for client, will in batch.wills.items():
            if will is None:
                db.execute("DELETE FROM will WHERE client = ?", (client,))
            else:
                db.execute("INSERT OR REPLACE INTO will VALUES(?,?,?,?,?)",
                           (client, will.topic, will.qos, will.retain, will.payload))

    def load(self, after_key: int, limit: int, mids: list[int]) -> list[Entry]:
        """The next rows of the backlog in order, each with a packet identifier set on disk.

        mids: free packet identifiers, at least `limit`; they are used from the end.
        """
        db, first = self._db, max(after_key, BACKLOG << LANE_SHIFT)
        try:
            rows = db.execute(
                f"SELECT {_COLUMNS} FROM msg WHERE key > ? AND key < ? AND mid = 0 ORDER BY key "
                "LIMIT ?", (first, (BACKLOG + 1) << LANE_SHIFT, limit))
            entries = [_entry(row) for row in rows]
            wanting = [entry for entry in entries if entry.qos]
            given = mids[len(mids) - len(wanting):][::-1]
            db.execute("BEGIN IMMEDIATE")
            db.executemany("UPDATE msg SET mid = ? WHERE key = ?",
                           [(mid, e.key) for mid, e in zip(given, wanting, strict=True)])
            db.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            raise OutboxError(str(error)) from error
        del mids[len(mids) - len(wanting):]
        for mid, entry in zip(given, wanting, strict=True):
            entry.mid = mid
        return entries

    def _roll_back(self) -> None:
        try:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
        except sqlite3.Error as error:  # the next BEGIN will tell
            log.error("cannot roll back reason=%s", error)

    def oldest(self, after_key: int, route: str, need_bytes: int) -> list[tuple[int, str, int]]:
        """(key, source, bytes) of the oldest unsent backlog rows of a route, need_bytes in all."""
        found: list[tuple[int, str, int]] = []
        for key, source, size in self._db.execute(
                "SELECT key, source, length(topic) + length(payload) FROM msg WHERE key > ? AND "
                "key < ? AND mid = 0 AND route = ? ORDER BY key",
                (max(after_key, BACKLOG << LANE_SHIFT), (BACKLOG + 1) << LANE_SHIFT, route)):
            if need_bytes <= 0:
                break
            found.append((key, source, size + ROW_OVERHEAD_BYTES))
            need_bytes -= size + ROW_OVERHEAD_BYTES
        return found

    def reader(self) -> sqlite3.Connection:
        """The database, for gateway/outbox_view.py to read in the same thread."""
        return self._db

    def close(self) -> None:
        """Fold the WAL into the file and close it."""
        self._db.close()


def _entry(row: tuple[int, int, int, int, int, str, str, str, bytes]) -> Entry:
    key, mid, qos, retain, age_s, route, source, topic, payload = row
    return Entry(key, mid, qos, bool(retain), False, age_s, route, source, topic, payload)


def _ranges(entries: list[Entry]) -> list[tuple[int, int]]:
    """Keys as inclusive runs: in-order traffic becomes one range."""
    keys = sorted(entry.key for entry in entries)
    runs: list[tuple[int, int]] = []
    first = last = keys[0]
    for key in keys[1:]:
        if key != last + 1:
            runs.append((first, last))
            first = key
        last = key
    runs.append((first, last))
    return runs
