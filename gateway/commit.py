"""Group commit: everything that has to be on disk, in few transactions, off the event loop.

While one batch is on its way to the disk, the next one gathers: in a thread, unless the disk is so
fast that handing over would cost more. When a batch starts, see pacer.py.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import TypeVar

from gateway.batch import Batch, Entry
from gateway.errors import OutboxError
from gateway.outbox import Outbox, Record
from gateway.pacer import Pacer

log = logging.getLogger("tidegate.commit")

LOOK_S = 0.01
# A disk that syncs within FAST_S on average is written from the event loop, if the batch is small
# and something waits for it to go upstream: two hand-overs between threads cost as much as the
# commit.
FAST_S = 0.001
SMALL_BYTES = 65_536
RETRY_S = 1.0
SAY_S = 60.0
LAZY_S = 2.0
DONE_MOST = 500
ENTRY_BYTES = 300  # that a message takes in memory beside its texts and payload
T = TypeVar("T")
Callback = Callable[[], None]
Part = tuple[list[Entry], Callback]  # of a batch: to be called once these are in it on disk


class Committer:
    """The outbox behind one thread; callbacks run on the event loop after the fsync."""

    def __init__(self, outbox: Outbox, pacer: Pacer) -> None:
        self.batch = Batch()
        self.waiting_bytes = self.payload_bytes = 0  # of messages: now, and since the start
        self.held_bytes = 0  # of memory, taken by the messages that wait
        self.failing: str | None = None  # why the last commit failed
        self.flooded = False  # at the last commit, see Pacer
        self.commits = 0
        self.longest_ms = 0.0
        self._outbox, self._pacer = outbox, pacer
        self._after: list[Callback] = []
        self._released: list[Part] = []  # for the next batch
        self._thread = ThreadPoolExecutor(1, "outbox")
        self._reading = 0  # jobs in the thread: the outbox has one user at a time
        self._sync_s = 1.0  # average time of a commit; slow until shown to be fast
        self._wake = asyncio.Event()
        self._settles = asyncio.Event()  # something came that needs no room
        self._say_s, self._said_failing = 0.0, False
        self._idle = asyncio.Event()
        self._idle.set()
        self._stopping = False
        self.done = 0  # messages delivered, not yet deleted on disk: those of `_finished`
        self._finished: list[Part] = []
        self._lazy: asyncio.TimerHandle | None = None

    def insert(self, entries: list[Entry]) -> None:
        """Add messages to the next batch."""
        self.batch.insert += entries
        self.held_bytes += ENTRY_BYTES * len(entries)
        for entry in entries:
            self.waiting_bytes += len(entry.payload)
            self.held_bytes += entry.size()
        self._wake.set()

    def release(self, entries: list[Entry], callback: Callback) -> None:
        """Note that the upstream has these; call back when that is on disk. They count as traffic:
        a draining backlog is busy though nothing comes in.

        Their rows are on disk: at QoS 2 nothing is sent before that. So the note may get there
        ahead of rows that wait, see `_make_room`.
        """
        self._released.append((entries, callback))
        self._pacer.arrived(len(entries), time.monotonic())
        self._settles.set()
        self.wake()

    def after(self, callback: Callback) -> None:
        """Call back once all that was added so far is on disk."""
        self._after.append(callback)
        self.wake()

    def finish(self, entries: list[Entry], callback: Callback, *, soon: bool) -> None:
        """Delete delivered entries; call back when that is on disk.

        They go along with the next commit, which costs nothing. Nobody waits for them, so unless
        `soon` they ask for one of their own only when they are DONE_MOST or LAZY_S old: a crash
        until then brings them back, owed a PUBREL at QoS 2 and doubled at QoS 1, where that is
        allowed.
        """
        self.done += len(entries)
        self._finished.append((entries, callback))
        self._settles.set()
        if soon or self.done >= DONE_MOST:
            self.wake()
        elif self._lazy is None:
            self._lazy = asyncio.get_running_loop().call_later(LAZY_S, self.wake)

    def hurry(self, now_s: float) -> None:
        """Somebody waits for us, see Pacer."""
        self._pacer.hurry(now_s)

    def wake(self) -> None:
        """There is something to commit."""
        self._wake.set()
        self._idle.clear()

    async def read(self, job: Callable[[], T]) -> T:
        """Run a job of the outbox in its thread."""
        self._reading += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, job)
        finally:
            self._reading -= 1

    async def settled(self) -> None:
        """Wait until everything added is on disk."""
        self._stopping = True
        self._idle.clear()
        self.wake()
        await self._idle.wait()

    async def run(self) -> None:
        """Commit batch after batch until cancelled."""
        while True:
            await self._wake.wait()
            self._idle.clear()
            while not self._stopping:
                delay_s = self._pacer.delay_s(self.waiting_bytes, time.monotonic(),
                                              len(self.batch.insert))
                if delay_s <= 0:
                    break
                # Look again soon: a burst or a waiting client ends the wait early.
                await asyncio.sleep(min(delay_s, LOOK_S))
            self._wake.clear()
            if self._lazy is not None:
                self._lazy.cancel()
                self._lazy = None
            self._pacer.arrived(len(self.batch.insert), time.monotonic())
            self.flooded = self._pacer.flooded()
            batch, after, released = self.batch, self._after, self._released
            finished = self._finished
            self.payload_bytes += self.waiting_bytes
            self.batch, self._after, self.waiting_bytes, self.held_bytes = Batch(), [], 0, 0
            self._released, self._finished, self.done = [], [], 0
            await self._commit(batch, released, finished)
            self._pacer.committed(time.monotonic())
            for callback in (*_callbacks(released), *after, *_callbacks(finished)):
                callback()
            if not self._wake.is_set():
                self._idle.set()

    async def _commit(self, batch: Batch, released: list[Part], finished: list[Part]) -> None:
        """Commit, and where the disk will not have it, wait and try again: nobody is told
        "it is safe" meanwhile. What needs no room is tried on its own, see `_make_room`, and is
        then no longer among `released` and `finished`."""
        while True:
            batch.release, batch.done = _entries(released), _entries(finished)
            if batch.empty():
                break
            began = time.monotonic()
            try:
                record = Record(batch.change())
                if self._fast() and (batch.late or batch.release) \
                        and len(record.body) < SMALL_BYTES and self._outbox.is_quick(record):
                    self._store(record)
                else:
                    await self.read(partial(self._store, record))
            except OutboxError as error:
                self._say_failing(str(error))
                await self._settle(batch, released, finished)
                continue
            self.commits += 1
            self.longest_ms = max(self.longest_ms, (time.monotonic() - began) * 1000)
            break
        if self.failing is not None:
            if self._said_failing:
                log.warning("writing again")
            self.failing, self._said_failing = None, False

    def _say_failing(self, reason: str) -> None:
        """Once a minute at most: a full disk that drains takes a little now and then."""
        now_s = time.monotonic()
        if self.failing is None and now_s >= self._say_s:
            log.error("cannot write, acknowledging nothing reason=%r", reason)
            self._say_s, self._said_failing = now_s + SAY_S, True
        self.failing = reason

    async def _settle(self, batch: Batch, released: list[Part], finished: list[Part]) -> None:
        """Until a batch that has no room is to be tried again, commit at once what needs none and
        came with it or comes meanwhile."""
        until_s = time.monotonic() + RETRY_S
        while True:
            self._settles.clear()
            self._bring_forward(batch, released, finished)
            took = await self._make_room(batch, released, finished)
            left_s = until_s - time.monotonic()
            if not took or left_s <= 0:
                await asyncio.sleep(left_s)
                return
            with suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._settles.wait(), left_s)

    def _fast(self) -> bool:
        """Whether a commit here and now is sure not to hold the event loop up."""
        return self._reading == 0 and self._sync_s < FAST_S and self.failing is None

    def _store(self, record: Record) -> None:
        began_s = time.perf_counter()
        self._outbox.commit(record)
        self._sync_s += 0.1 * (time.perf_counter() - began_s - self._sync_s)

    def _bring_forward(self, batch: Batch, released: list[Part], finished: list[Part]) -> None:
        """Let what was released, delivered and dropped meanwhile come with a batch that waits for
        room, but for the deletion of what is only in the next batch."""
        released += self._released
        gathering = self.batch
        coming = {entry.key for entry in gathering.insert}
        ready, later = _parted(self._finished, coming)
        finished += ready
        batch.drop += [key for key in gathering.drop if key not in coming]
        gathering.drop = [key for key in gathering.drop if key in coming]
        self._released, self._finished, self.done = [], later, len(_entries(later))
        self._wake.set()

    async def _make_room(self, batch: Batch, released: list[Part], finished: list[Part]) -> bool:
        """Commit of a batch what makes room, and the releases, without which nothing makes room at
        QoS 2: no PUBREL goes out, no PUBCOMP comes, and the window stays full. False where the
        disk will not have that either."""
        coming = {entry.key for entry in batch.insert}
        ready, later = _parted(finished, coming)
        if took := await self._applied(Batch(release=_entries(released))):
            callbacks = _callbacks(released)
            released.clear()
            for callback in callbacks:
                callback()
        drop = [key for key in batch.drop if key not in coming]
        if not await self._applied(Batch(done=_entries(ready), drop=drop)):
            return False
        batch.drop = [key for key in batch.drop if key in coming]
        finished[:] = later
        for callback in _callbacks(ready):
            callback()
        return took

    async def _applied(self, room: Batch) -> bool:
        try:
            if not room.empty():
                await self.read(lambda: self._outbox.apply(room))
        except OutboxError:
            return False
        return True

    def close(self) -> None:
        """Wait for the thread; close the outbox in it."""
        self._thread.submit(self._outbox.close)
        self._thread.shutdown()


def _entries(parts: list[Part]) -> list[Entry]:
    return [entry for entries, _ in parts for entry in entries]


def _callbacks(parts: list[Part]) -> list[Callback]:
    return [callback for _, callback in parts]


def _parted(parts: list[Part], coming: set[int]) -> tuple[list[Part], list[Part]]:
    """What does not wait for a row among `coming`, and what does; the callback goes with that."""
    ready: list[Part] = []
    later: list[Part] = []
    for entries, callback in parts:
        waiting = [entry for entry in entries if entry.key in coming]
        if waiting:
            later.append((waiting, callback))
            entries, callback = [e for e in entries if e.key not in coming], _nothing
        ready.append((entries, callback))
    return ready, later


def _nothing() -> None:
    """The callback of those whose part is not complete."""
