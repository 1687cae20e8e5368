"""The outbox's database: SQLite, and every statement that changes it.

A message is one row of `msg`. `key` is `lane << 56 | id`, so that one b-tree keeps every lane in
order and a finished run of messages is one range delete. `mid` is the packet identifier it was
given; `released` holds runs of keys whose PUBREC came, beside the messages, so that their pages
need not be written again. `journal` says which generation of the journal is in here and up to
which offset, and whether what the upstream still holds of us is to be forgotten.

What a journal holds beyond that is laid over the tables by `lay_over`: `now` is then `msg` as it
really is. Reading needs no room on the disk.
"""

from __future__ import annotations

import secrets
import sqlite3
from pathlib import Path

from gateway.batch import Change, Pending, runs
from gateway.errors import OutboxError
from gateway.journal import ALL

# 1 had no journal; 2 did not say how far it was taken over, nor `forget`; 3 had no `zero`, was in
# WAL mode, and a message without a packet identifier had 0 there.
SCHEMA_VERSION = 4
PAGE_BYTES = 1024
# Stands for no packet identifier yet: as many bytes as the largest, so that giving one to a row
# of a full database needs no room.
UNSENT = -(1 << 23)
COLUMNS = "key, mid, qos, retain, age_s, route, source, topic, payload"

_RELEASE = ("INSERT INTO released VALUES(?,?) ON CONFLICT(first) DO UPDATE SET "
            "last = max(last, excluded.last)")
# Not where it is so already: that would write the page anew.
_MOVE = "UPDATE msg SET key = ?2, mid = ?3 WHERE key = ?1 AND (key <> ?2 OR mid <> ?3)"
_JOURNAL = "CREATE TABLE journal(generation INTEGER, at INTEGER, forget INTEGER);"
_ZERO = """
CREATE TABLE IF NOT EXISTS zero(device TEXT, life TEXT, boot INTEGER, ms INTEGER, at_ms INTEGER,
  last_up_ms INTEGER, last_ms INTEGER, PRIMARY KEY(device, life, boot)) WITHOUT ROWID;
"""
_FROM_2 = f"""
ALTER TABLE journal ADD COLUMN at INTEGER;
ALTER TABLE journal ADD COLUMN forget INTEGER;
UPDATE journal SET at = {ALL}, forget = 0;
"""

_SCHEMA = f"""
CREATE TABLE msg(key INTEGER PRIMARY KEY, mid INTEGER, qos INTEGER, retain INTEGER,
  age_s INTEGER, route TEXT, source TEXT, topic TEXT, payload BLOB);
CREATE TABLE released(first INTEGER PRIMARY KEY, last INTEGER);
CREATE TABLE seen(device TEXT, life TEXT, boot INTEGER, seq INTEGER,
  PRIMARY KEY(device, life, boot)) WITHOUT ROWID;
CREATE TABLE received(client TEXT, mid INTEGER, PRIMARY KEY(client, mid)) WITHOUT ROWID;
CREATE TABLE retained(topic TEXT PRIMARY KEY, qos INTEGER, payload BLOB) WITHOUT ROWID;
CREATE TABLE will(client TEXT PRIMARY KEY, topic TEXT, qos INTEGER, retain INTEGER, payload BLOB)
  WITHOUT ROWID;
{_JOURNAL}
{_ZERO}
"""
_LAYER = f"""
CREATE TEMP TABLE fresh(key INTEGER PRIMARY KEY, mid, qos, retain, age_s, route, source, topic,
  payload);
CREATE TEMP TABLE gone(key INTEGER PRIMARY KEY);
CREATE TEMP VIEW now AS SELECT key, max(mid, 0) AS mid, {COLUMNS[10:]}
  FROM main.msg WHERE key NOT IN (SELECT key FROM gone)
  UNION ALL SELECT {COLUMNS} FROM fresh;
"""


def connect(path: Path) -> sqlite3.Connection:
    """Open the database for the gateway alone, with a rollback journal that stays and
    synchronous=FULL: a commit returns after its fsync. Raises OutboxError, DatabaseError.

    No write-ahead log: with one, a commit that lengthens the database works on a disk that has no
    room for it, and nothing is ever freed then (issue 12). And it would write every row twice.
    """
    db = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=2)
    try:
        db.execute("PRAGMA locking_mode=EXCLUSIVE")
        db.execute(f"PRAGMA page_size={PAGE_BYTES}")
        db.execute("PRAGMA synchronous=FULL")
        db.execute("PRAGMA temp_store=MEMORY")
        db.execute("PRAGMA secure_delete=OFF")  # Debian's is on; a delete then writes all it frees
        db.execute("PRAGMA journal_mode=PERSIST")
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > SCHEMA_VERSION:
            raise OutboxError(f"{path}: written by a newer Tidegate (format {version}, this one "
                              f"reads up to {SCHEMA_VERSION}); install that version")
        if version < SCHEMA_VERSION:
            db.executescript(f"BEGIN; {_migration(version)} "
                             f"PRAGMA user_version={SCHEMA_VERSION}; COMMIT;")
        problem = db.execute("PRAGMA quick_check(1)").fetchone()[0]
        if problem != "ok":
            raise sqlite3.DatabaseError(str(problem))
        db.executescript(_LAYER)
    except BaseException:
        db.close()
        raise
    return db


def _migration(version: int) -> str:
    """What makes a database of an earlier format, or an empty one, one of this.

    The generation before its first is random, so that journals cannot be mixed. A new one knows
    nothing of what was sent before.
    """
    if version > 1:
        return f"{_FROM_2 if version == 2 else ''} {_ZERO}"
    return (f"{f'{_JOURNAL} {_ZERO}' if version else _SCHEMA} INSERT INTO journal "
            f"VALUES({1 << 61 | secrets.randbits(60)}, {ALL}, {version == 0:d});")


def look(path: Path) -> sqlite3.Connection:
    """Open the database of a gateway that is not running, to be read. Raises sqlite3.Error."""
    db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=1)
    db.execute("PRAGMA temp_store=MEMORY")
    db.executescript(_LAYER)
    return db


def applied(db: sqlite3.Connection) -> tuple[int, int] | None:
    """Return the last generation of the journal that is in the database, and the offset behind
    what is in it; None in a format without a journal."""
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version < 2:
        return None
    at = "at" if version > 2 else str(ALL)
    generation, at = db.execute(f"SELECT generation, {at} FROM journal").fetchone()
    return generation, at


def lay_over(db: sqlite3.Connection, pending: Pending) -> None:
    """Make `now` show what is pending; nothing is written to the disk."""
    db.execute("DELETE FROM fresh")
    db.execute("DELETE FROM gone")
    db.executemany("INSERT OR IGNORE INTO gone VALUES(?)",
                   [(key,) for key in (*pending.ended, *pending.moved, *pending.rows)])
    db.executemany("INSERT INTO fresh SELECT ?2, ?3, qos, retain, age_s, route, source, topic, "
                   "payload FROM main.msg WHERE key = ?1", _moves(pending))
    db.executemany("INSERT INTO fresh VALUES(?,?,?,?,?,?,?,?,?)", list(pending.rows.values()))


def write(db: sqlite3.Connection, pending: Pending) -> None:
    """Within a transaction: everything pending, into the tables."""
    if pending.ended:
        db.executemany("DELETE FROM msg WHERE key BETWEEN ? AND ?", runs(pending.ended))
    db.executemany(_MOVE, _moves(pending))
    # Some may be there: a commit that failed may have reached the disk, and was tried again.
    db.executemany("INSERT OR REPLACE INTO msg VALUES(?,?,?,?,?,?,?,?,?)",
                   [(row[0], row[1] or UNSENT, *row[2:]) for row in sorted(pending.rows.values())])
    db.executemany(_RELEASE, runs(pending.released))
    if pending.ended:
        prune(db)
    db.executemany("INSERT OR REPLACE INTO seen VALUES(?,?,?,?)",
                   [(*key, seq) for key, seq in pending.seen.items() if seq])
    db.executemany("DELETE FROM seen WHERE device = ? AND life = ? AND boot = ?",
                   [key for key, seq in pending.seen.items() if not seq])
    db.executemany("INSERT OR REPLACE INTO zero VALUES(?,?,?,?,?,?,?)",
                   [(*key, *saved) for key, saved in pending.zeros.items() if saved is not None])
    db.executemany("DELETE FROM zero WHERE device = ? AND life = ? AND boot = ?",
                   [key for key, saved in pending.zeros.items() if saved is None])
    for (client, mid), there in pending.received.items():
        db.execute("INSERT OR IGNORE INTO received VALUES(?,?)" if there else
                   "DELETE FROM received WHERE client = ? AND mid = ?", (client, mid))
    for topic, message in pending.retained.items():
        if message is None:
            db.execute("DELETE FROM retained WHERE topic = ?", (topic,))
        else:
            db.execute("INSERT OR REPLACE INTO retained VALUES(?,?,?)", (topic, *message))
    for client, will in pending.wills.items():
        if will is None:
            db.execute("DELETE FROM will WHERE client = ?", (client,))
        else:
            db.execute("INSERT OR REPLACE INTO will VALUES(?,?,?,?,?)", (client, *will))


def settle(db: sqlite3.Connection, change: Change) -> None:
    """Within a transaction, ahead of the journal: what became of rows that are here. To read the
    journal after it changes nothing. Released runs may be of rows yet to come: no pruning."""
    db.executemany("DELETE FROM msg WHERE key BETWEEN ? AND ?", change.ended)
    db.executemany(_MOVE, change.moved)
    db.executemany(_RELEASE, change.released)


def _moves(pending: Pending) -> list[tuple[int, int, int]]:
    return [(old, new, mid) for old, (new, mid) in pending.moved.items()]


def prune(db: sqlite3.Connection) -> None:
    """Throw away released runs whose rows are all gone: they must never speak of new ones."""
    db.execute("DELETE FROM released WHERE NOT EXISTS "
               "(SELECT 1 FROM msg WHERE key BETWEEN first AND last)")
