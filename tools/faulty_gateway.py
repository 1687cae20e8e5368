"""The gateway with a fault planted from outside, to show that a judge can fail.

    python -m tools.faulty_gateway run -c FILE.toml            (as `tidegate run`)
    python -m tools.faulty_gateway --fault drop-one run -c FILE.toml

Environment, for those who start it from a script:
- TIDEGATE_FAULT: one of FAULTS; breaks a promise of the gateway, once or now and then.
- TIDEGATE_DISK: `slow:S`, each commit takes up to S [s] longer; `full:AFTER:FOR`, from AFTER to
  AFTER + FOR [s] the database may not grow; `short:AFTER:FOR`, meanwhile no file may grow, so
  that writes stop in the middle (RLIMIT_FSIZE).
- TIDEGATE_LIVE_MOST: how many messages it keeps in memory, so that few make a backlog.

The disk's troubles break no promise: the gateway has to bear them. gateway/ knows of none of this.
"""

from __future__ import annotations

import os
import random
import resource
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from gateway import bridge as _all_of_it  # noqa: F401
from gateway import queue
from gateway.batch import Batch, Change, Entry
from gateway.commit import Committer
from gateway.drain import Drain
from gateway.errors import OutboxError
from gateway.outbox import Outbox, Record
from gateway.wills import Wills

AFTER_MESSAGES = 10
"""The fault hits this message (and, for those that come again, every one so far apart)."""


def _drop_one() -> None:
    """Acknowledge one message without writing it to the disk or sending it."""
    count = 0
    inner = Batch.change

    def change(self: Batch) -> Change:
        nonlocal count
        for entry in list(self.insert):
            count += not entry.retain
            if count == AFTER_MESSAGES and not entry.retain:
                self.insert.remove(entry)
                self.late.remove(entry)
        return inner(self)

    _patch(Batch, "change", change)
    _never_early()


def _double_one() -> None:
    """Send every tenth message of QoS 2 twice."""
    count = 0
    inner = Drain.committed

    def committed(self: Drain, entries: list[Entry]) -> None:
        nonlocal count
        sent = []
        for entry in entries:
            sent.append(entry)
            # at QoS 1 a double is allowed; without a packet identifier it is not sent from here
            plain = entry.qos == 2 and not entry.retain and entry.mid > 0
            count += plain
            if plain and count % AFTER_MESSAGES == 0:
                mids = self.flight.mids.take_mids(1)
                sent.append(Entry(entry.key, mids[0], entry.qos, False, False, entry.age_s,
                                  entry.route, entry.source, entry.topic, entry.payload))
        inner(self, sent)

    _patch(Drain, "committed", committed)


def _reorder() -> None:
    """Send every tenth message behind the next of its source."""
    count = 0
    late: list[Entry] = []
    inner = Drain.committed

    def committed(self: Drain, entries: list[Entry]) -> None:
        nonlocal count
        sent = []
        for entry in entries:
            plain = not entry.retain and entry.mid > 0  # sent from here, not from the backlog
            count += plain
            if plain and count >= AFTER_MESSAGES and not late:
                late.append(entry)
                continue
            sent.append(entry)
            if plain and late and entry.source == late[0].source:
                sent.append(late.pop())
                count = 0
        inner(self, sent)

    _patch(Drain, "committed", committed)
    _never_early()


def _never_early() -> None:
    """Send only what is on disk: a fault there would not be seen in what went out before."""
    inner = Drain.offer

    def offer(self: Drain, entries: list[Entry], *, early: bool) -> bool:
        return inner(self, entries, early=False)

    _patch(Drain, "offer", offer)


def _ack_early() -> None:
    """Acknowledge first and write later, as most brokers do."""
    inner = Committer.after
    honest = ("_stored", "_removed", "_released")

    def after(self: Committer, callback: Callable[[], None]) -> None:
        name = getattr(getattr(callback, "func", callback), "__name__", "")
        if name in honest:
            inner(self, callback)
        else:
            import asyncio

            asyncio.get_running_loop().call_soon(callback)

    _patch(Committer, "after", after)
    _slow(0.1)
    _never_early()


def _wrong_qos() -> None:
    """Send every tenth message of QoS 2 at QoS 1."""
    count = 0
    inner = queue.Queue.add

    def add(self: queue.Queue, *args: Any, **more: Any) -> queue.Added | None:
        nonlocal count
        added = inner(self, *args, **more)
        if added is not None and added[0].qos == 2:
            count += 1
            if count % AFTER_MESSAGES == 0:
                added[0].qos = 1
        return added

    _patch(queue.Queue, "add", add)


def _lose_will() -> None:
    """Never publish a will."""
    _patch(Wills, "_fire", lambda *_: None)


FAULTS: dict[str, Callable[[], None]] = {
    "drop-one": _drop_one,
    "double-one": _double_one,
    "reorder": _reorder,
    "ack-early": _ack_early,
    "wrong-qos": _wrong_qos,
    "lose-will": _lose_will,
}


def _patch(owner: type, name: str, function: object) -> None:
    setattr(owner, name, function)


def _slow(most_s: float) -> None:
    """Let each commit take longer, before it or between it and its end."""
    rng = random.Random()
    inner = Outbox.commit

    def commit(self: Outbox, record: Record) -> None:
        before_s = rng.uniform(0, most_s)
        time.sleep(before_s)
        inner(self, record)
        time.sleep(most_s - before_s)

    _patch(Outbox, "commit", commit)


def _full(after_s: float, for_s: float) -> None:
    """Let the database not grow for a while, and have nothing to spare for messages."""
    inner, began_s = Outbox.commit, time.monotonic()
    state = {"full": False}

    def commit(self: Outbox, record: Record) -> None:
        full = after_s <= time.monotonic() - began_s < after_s + for_s
        if full != state["full"]:
            state["full"] = full
            pages = 1 if full else 1 << 30  # SQLite raises it to the pages that there are
            self._db.execute(f"PRAGMA max_page_count={pages}")
        if full and record.need_bytes:
            self.flush()
            raise OutboxError("the disk is full")
        inner(self, record)

    _patch(Outbox, "commit", commit)


def _short(after_s: float, for_s: float) -> None:
    """Let no file be written for a while behind where the journal is: the kernel stops writes in
    the middle."""
    inner = Outbox.__init__

    def init(self: Outbox, path: Path) -> None:
        inner(self, path)

        def limit() -> None:
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.journal.at + 6000, hard))

        def lift() -> None:
            _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))

        for delay_s, job in ((after_s, limit), (after_s + for_s, lift)):
            timer = threading.Timer(delay_s, job)
            timer.daemon = True
            timer.start()

    _patch(Outbox, "__init__", init)


_DISKS: dict[str, Callable[..., None]] = {"slow": _slow, "full": _full, "short": _short}


def plant(fault: str, disk: str = "", live_most: str = "") -> None:
    """Put faults into the gateway's classes in this process. Raises ValueError for a bad name."""
    if live_most:
        queue.LIVE_MOST = int(live_most)
    if disk:
        kind, *numbers = disk.split(":")
        if kind not in _DISKS:
            raise ValueError(f"TIDEGATE_DISK={disk}: use one of {', '.join(_DISKS)}")
        _DISKS[kind](*map(float, numbers))
    if fault:
        if fault not in FAULTS:
            raise ValueError(f"no fault {fault!r}: use one of {', '.join(FAULTS)}")
        FAULTS[fault]()


def main() -> None:
    """Plant what the command line or the environment says, then be `tidegate`."""
    from gateway.cli import main as tidegate

    fault = os.environ.get("TIDEGATE_FAULT", "")
    if sys.argv[1:2] == ["--fault"]:
        fault = sys.argv[2] if len(sys.argv) > 2 else "?"
        del sys.argv[1:3]
    try:
        plant(fault, os.environ.get("TIDEGATE_DISK", ""),
              os.environ.get("TIDEGATE_LIVE_MOST", ""))
    except ValueError as error:
        print(f"faulty_gateway: {error}", file=sys.stderr)
        sys.exit(2)
    tidegate()


if __name__ == "__main__":
    main()
