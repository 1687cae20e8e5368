"""How messages leave the outbox: delivered, or unsent where a route's policy says so.

What leaves memory is deleted on disk with a later commit; its packet identifier and its share of
the cap are free only then.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from functools import partial

from gateway.batch import Entry
from gateway.commit import Committer
from gateway.errors import OutboxError
from gateway.flight import Flight
from gateway.outbox import Outbox
from gateway.queue import Queue, Waiting
from gateway.routes import Route

log = logging.getLogger("tidegate.leaving")

ROOM_SHARE = 0.02  # of the cap, freed at once where a route drops its oldest


class Leaving:
    """Takes entries out of memory and off the disk, and counts them by reason.

    loaded_key: backlog rows up to this one are in memory, or were; see drain.py.
    """

    def __init__(self, flight: Flight, queue: Queue, committer: Committer, outbox: Outbox,
                 routes: list[Route]) -> None:
        self.delivered = 0
        self.loaded_key = 0
        self.gone: set[int] = set()  # backlog keys dropped, perhaps not yet on disk
        self.on_room: Callable[[], None] = lambda: None
        self.on_left: Callable[[], None] = lambda: None  # there is room in memory
        self._flight, self._queue = flight, queue
        self._committer, self._outbox = committer, outbox
        self._bytes = 0  # dropped from memory, still on disk
        self._making_room: dict[str, asyncio.Task[None]] = {}  # by route
        self.use_routes(routes)

    def use_routes(self, routes: list[Route]) -> None:
        """These routes say how long a message is worth keeping."""
        self._keep_s = {route.filter: route.keep_s for route in routes if route.keep_s > 0}

    def remove(self, entries: list[Entry], reason: str = "") -> None:
        """Delete entries that are done (no reason) or dropped, with the next commit."""
        if reason:
            self._queue.dropped[reason] += len(entries)
        else:
            self.delivered += len(entries)
        self.forget(entries, soon=bool(reason))

    def forget(self, entries: list[Entry], *, soon: bool = False) -> None:
        """Delete entries that are counted elsewhere, with the next commit."""
        soon = soon or self._queue.tight() or self._flight.mids.short()
        self._committer.finish(entries, partial(self._removed, entries), soon=soon)

    def _removed(self, entries: list[Entry]) -> None:
        self._queue.finished(entries)
        self.on_left()
        self.on_room()

    def supersede(self, old: Entry | Waiting) -> None:
        """A newer value of the same topic came before this one was sent (`latest-only`)."""
        if isinstance(old, Waiting):
            self._drop_rows([(old.key, old.source, old.size)], "superseded")
            return
        if self._flight.in_flight.get(old.mid) is old:
            return  # sent on an earlier connection, to be sent again
        for waiting in self._flight.lanes[old.lane], self._flight.shelf:
            if old in waiting:
                waiting.remove(old)
        # else it waits for its commit; flight skips what is marked
        old.sent = True
        self.remove([old], "superseded")

    def _drop_rows(self, rows: list[tuple[int, str, int]], reason: str) -> None:
        """Drop backlog rows (key, source, bytes) that are not in memory. A load that runs now
        may still bring them, and knows by `gone`."""
        keys = [key for key, _, _ in rows]
        self.gone.update(keys)
        self._committer.batch.drop += keys
        self._queue.dropped_rows(rows, reason)
        self._committer.after(partial(self._rows_dropped, keys))

    def _rows_dropped(self, keys: list[int]) -> None:
        self.gone.difference_update(keys)
        self.on_room()

    def make_room(self, route: Route) -> None:
        """Drop the oldest of a route that were never sent, some at a time."""
        task = self._making_room.get(route.filter)
        if task is None or task.done():
            self._making_room[route.filter] = asyncio.get_running_loop().create_task(
                self._make_room(route))

    async def _make_room(self, route: Route) -> None:
        need = int(self._queue.used_bytes - self._bytes
                   - self._queue.max_bytes * (1 - ROOM_SHARE))
        if need <= 0:
            return
        count, need = self._drop_waiting(route, need)
        if need > 0 and self._queue.unloaded:
            after = self.loaded_key
            try:
                rows = await self._committer.read(
                    lambda: self._outbox.oldest(after, route.filter, need))
            except OutboxError as error:  # a full disk; the next message asks again
                log.warning("cannot make room reason=%r", str(error))
                rows = []
            rows = [row for row in rows if row[0] > self.loaded_key and row[0] not in self.gone]
            if rows:
                self._drop_rows(rows, "drop-oldest")
                count += len(rows)
        if count:
            log.warning("outbox full, oldest dropped route=%r messages=%d", route.filter, count)

    def _drop_waiting(self, route: Route, need: int) -> tuple[int, int]:
        """Drop a route's oldest that wait in memory: they came before those that are only on
        disk. Returns how many, and the bytes still needed."""
        dropped: list[Entry] = []
        for lane in self._flight.queues():
            for entry in lane:
                if need <= 0:
                    break
                if entry.route == route.filter:
                    dropped.append(entry)
                    need -= entry.size()
        if dropped:
            self.discard(dropped, "drop-oldest")
        return len(dropped), need

    def discard(self, entries: list[Entry], reason: str) -> None:
        """Take entries that were never sent out of memory and off the disk."""
        keys = {entry.key for entry in entries}
        for lane in self._flight.queues():
            if any(entry.key in keys for entry in lane):
                kept = [entry for entry in lane if entry.key not in keys]
                lane.clear()
                lane.extend(kept)
        size = sum(entry.size() for entry in entries)
        self._bytes += size
        for entry in entries:
            entry.sent = True
        self.remove(entries, reason)
        self._committer.after(partial(self._left, size))

    def _left(self, size: int) -> None:
        self._bytes -= size

    def expired(self, entries: Iterable[Entry]) -> list[Entry]:
        """Those of the entries that are older than their route keeps them."""
        if not self._keep_s:
            return []
        now_s = self._outbox.clock_s()
        return [e for e in entries if 0 < self._keep_s.get(e.route, 0) < now_s - e.age_s]

    def expire_waiting(self) -> None:
        """Drop what waits in memory and is not worth sending any more."""
        old = [entry for lane in self._flight.queues() for entry in self.expired(lane)]
        if old:
            self.discard(old, "expired")
