"""From the outbox to the upstream: what is on disk is sent, and deleted on its acknowledgement.

At QoS 1 and 0 only the PUBACK to the device waits for the disk, the message goes out at once:
after a crash in between the device sends it again, and the upstream may have it twice, as QoS 1
allows. At QoS 2 it waits, see flight.py.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from functools import partial

from gateway import wire
from gateway.batch import LANE_SHIFT, Entry
from gateway.caution import Caution
from gateway.commit import RETRY_S, Committer
from gateway.errors import OutboxError
from gateway.flight import Flight, Limits
from gateway.outbox import Outbox
from gateway.queue import Queue
from gateway.routes import BACKLOG, Route
from gateway.upstream import Upstream

log = logging.getLogger("tidegate.drain")

BACKLOG_KEY = BACKLOG << LANE_SHIFT
CHUNK = 1000  # rows of the backlog read at once
SEND_BYTES = 131_072
ROOM_SHARE = 0.02  # of the cap, freed at once where a route drops its oldest


class Drain:
    """The upstream's listener (see upstream.Listener) and the only user of Flight."""

    def __init__(self, flight: Flight, queue: Queue, committer: Committer, outbox: Outbox,
                 routes: list[Route], ack_timeout_s: float) -> None:
        self.flight, self.queue = flight, queue
        self.upstream: Upstream | None = None
        self.delivered = 0
        self.on_connected: Callable[[], None] = lambda: None
        self.on_room: Callable[[], None] = lambda: None
        self._committer, self._outbox = committer, outbox
        self.use_routes(routes)
        self._ack_timeout_s = ack_timeout_s
        self._loaded_key = 0
        self._loading = False
        self._behind = 0  # messages that wait for the disk
        self._commits = 0
        self._held: dict[str, int] = {}  # source → commit with which its last such message comes
        self._offered = False
        self._gone: set[int] = set()  # backlog keys dropped, perhaps not yet on disk
        self._leaving_bytes = 0  # dropped from memory, still on disk
        self._tasks: set[asyncio.Task[None]] = set()
        self._progress_s = 0.0
        self._caution = Caution()
        self._window = 0
        self._lowered_said = False

    def use_routes(self, routes: list[Route]) -> None:
        """These routes say how long a message is worth keeping."""
        self._keep_s = {route.filter: route.keep_s for route in routes if route.keep_s > 0}

    # --- entries

    def offer(self, entries: list[Entry], *, early: bool) -> bool:
        """Take entries that are on their way to the disk, if they may go out early and that is
        quicker; all or none. The others come with `committed`, and nothing of their source
        overtakes them."""
        committer, held, commits = self._committer, self._held, self._commits
        if early and self.flight.connected and committer.failing is None \
                and not committer.flooded() and all(
                    entry.qos < 2 and entry.key < BACKLOG_KEY
                    and held.get(entry.source, 0) <= commits for entry in entries):
            self.flight.add(entries)
            if not self._offered:  # one write for all of a wake-up
                self._offered = True
                asyncio.get_running_loop().call_soon(self._send_offered)
            return True
        self._behind += len(entries)
        for entry in entries:
            held[entry.source] = commits + 2  # one may be under way without them
        return False

    def _send_offered(self) -> None:
        self._offered = False
        self._send()

    def committed(self, entries: list[Entry]) -> None:
        """These entries, which `offer` did not take, are on disk."""
        self._behind -= len(entries)
        self._commits += 1
        if not self._behind:
            self._held.clear()
        self.flight.add([entry for entry in entries if entry.key < BACKLOG_KEY])
        self.upstream_writable()

    def remove(self, entries: list[Entry], reason: str = "") -> None:
        """Delete entries that are done (no reason) or dropped, with the next commit."""
        if reason:
            self.queue.dropped[reason] += len(entries)
        else:
            self.delivered += len(entries)
        soon = bool(reason) or self.queue.tight() or self.flight.short_of_mids()
        self._committer.finish(entries, partial(self._removed, entries), soon=soon)

    def _removed(self, entries: list[Entry]) -> None:
        self.queue.finished(entries)
        self.on_room()

    def supersede(self, old: Entry) -> None:
        """A newer value of the same topic came before this one was sent (`latest-only`)."""
        if old.lane == BACKLOG:
            if old.key > self._loaded_key:
                self._drop_rows([(old.key, old.source, old.size())], "superseded")
            return  # else its copy in memory is on its way
        if self.flight.in_flight.get(old.mid) is old:
            return  # sent on an earlier connection, to be sent again
        try:
            self.flight.lanes[old.lane].remove(old)
        except ValueError:
            pass  # not committed yet; flight skips what is marked
        old.sent = True
        self.remove([old], "superseded")

    def _drop_rows(self, rows: list[tuple[int, str, int]], reason: str) -> None:
        """Drop backlog rows (key, source, bytes) that are not in memory. A load that runs now
        may still bring them; `_load` knows by `_gone`."""
        keys = [key for key, _, _ in rows]
        self._gone.update(keys)
        self._committer.batch.drop += keys
        self.queue.dropped_rows(rows, reason)
        self._committer.after(partial(self._rows_dropped, keys))

    def _rows_dropped(self, keys: list[int]) -> None:
        self._gone.difference_update(keys)
        self.on_room()

    def make_room(self, route: Route) -> None:
        """Drop the oldest of a route that were never sent, some at a time."""
        self._spawn(f"room {route.filter}", self._make_room(route))

    async def _make_room(self, route: Route) -> None:
        need = int(self.queue.used_bytes - self._leaving_bytes
                   - self.queue.max_bytes * (1 - ROOM_SHARE))
        if need <= 0:
            return
        count, need = self._drop_waiting(route, need)
        if need > 0 and self.queue.unloaded:
            after = self._loaded_key
            try:
                rows = await self._committer.read(
                    lambda: self._outbox.oldest(after, route.filter, need))
            except OutboxError as error:  # a full disk; the next message asks again
                log.warning("cannot make room reason=%r", str(error))
                rows = []
            rows = [row for row in rows if row[0] > self._loaded_key and row[0] not in self._gone]
            self._drop_rows(rows, "drop-oldest")
            count += len(rows)
        if count:
            log.warning("outbox full, oldest dropped route=%r messages=%d", route.filter, count)

    def _drop_waiting(self, route: Route, need: int) -> tuple[int, int]:
        """Drop a route's oldest that wait in memory: they came before those that are only on
        disk. Returns how many, and the bytes still needed."""
        dropped: list[Entry] = []
        for lane in self.flight.lanes:
            for entry in lane:
                if need <= 0:
                    break
                if entry.route == route.filter:
                    dropped.append(entry)
                    need -= entry.size()
        if dropped:
            self._discard(dropped, "drop-oldest")
        return len(dropped), need

    def _discard(self, entries: list[Entry], reason: str) -> None:
        """Take entries that were never sent out of memory and off the disk."""
        keys = {entry.key for entry in entries}
        for lane in self.flight.lanes:
            if any(entry.key in keys for entry in lane):
                kept = [entry for entry in lane if entry.key not in keys]
                lane.clear()
                lane.extend(kept)
        size = sum(entry.size() for entry in entries)
        self._leaving_bytes += size
        for entry in entries:
            entry.sent = True
        self.remove(entries, reason)
        self._committer.after(partial(self._left, size))

    def _left(self, size: int) -> None:
        self._leaving_bytes -= size

    # --- what the link tells

    def upstream_connected(self, session_present: bool, limits: Limits) -> None:
        self._window = limits.window
        if self._caution.connected():
            limits.window = 1
            log.warning("the broker closes on what we send, sending one at a time")
        orphans = self.flight.start(session_present, limits)
        if orphans:
            self.remove(orphans)
        self._progress_s = time.monotonic()
        self._expire_waiting()
        self.on_connected()
        self.upstream_writable()

    def upstream_lost(self, by_broker: bool) -> None:
        blamed = self._caution.lost(by_broker, self.flight.unanswered() if by_broker else [])
        if blamed is not None:
            log.error("the broker closes on a message, set aside topic=%s bytes=%d", blamed.topic,
                      len(blamed.payload))
            del self.flight.in_flight[blamed.mid]
            self._set_aside(blamed, keep_mid=True)
        self.flight.stop()

    def upstream_acks(self, acks: list[wire.Ack]) -> None:
        progress = self.flight.acks(acks)
        self._progress_s = time.monotonic()
        if self.flight.lowered and not self._lowered_said:
            self._lowered_said = True
            log.warning("the broker takes QoS 2 at QoS 1: nothing is lost, some may come twice")
        if self._caution.acknowledged(len(acks)):
            self.flight.limits.window = self._window
        if progress.reply:
            self._write([bytes(progress.reply)])
        if progress.done:
            self.remove(progress.done)
        if progress.release:
            if self.flight.queued():  # the window opens only with this commit
                self._committer.hurry(self._progress_s)
            self._committer.release(progress.release, partial(self._released, progress.release))
        for entry, reason in progress.refused:
            log.error("upstream refuses a message, set aside topic=%s reason=0x%02x", entry.topic,
                      reason)
            self._set_aside(entry, keep_mid=False)

    def _released(self, entries: list[Entry]) -> None:
        parts = self.flight.released(entries)
        if parts:
            self._write(parts)

    def _set_aside(self, entry: Entry, *, keep_mid: bool) -> None:
        """keep_mid: the upstream may still hold the message, so its packet identifier stays taken;
        an answer with a reason code ends it."""
        mid = entry.mid
        if not keep_mid:
            entry.mid = 0
            if mid:
                self._committer.after(partial(self.flight.free_mids, [mid]))
        self._committer.batch.moved.append(self.queue.set_aside(entry))
        self._committer.wake()

    def _write(self, parts: list[bytes]) -> None:
        if self.upstream is not None:
            self.upstream.write(parts)

    def upstream_publishes(self, publishes: list[wire.Publish]) -> None:
        """We subscribe to nothing upstream; what comes all the same is not ours."""
        log.debug("upstream sent messages count=%d", len(publishes))

    def upstream_writable(self) -> None:
        """Send while the link takes it."""
        if self.upstream is None:
            return
        self._send()
        if self.flight.connected and self.queue.unloaded > 0 and not self._loading \
                and len(self.flight.lanes[BACKLOG]) < CHUNK // 2:
            self._loading = True
            self._spawn("load", self._load())

    def _send(self) -> None:
        upstream = self.upstream
        while upstream is not None and upstream.writable():
            parts, ended = self.flight.send(SEND_BYTES, time.monotonic())
            for entry in self.flight.oversized:
                log.error("too big for the upstream, set aside topic=%s bytes=%d", entry.topic,
                          len(entry.payload))
                self._set_aside(entry, keep_mid=entry.sent)
            self.flight.oversized.clear()
            if not parts:
                break
            upstream.write(parts)
            if ended:
                self.remove(ended)

    # --- the backlog

    async def _load(self) -> None:
        try:
            while self._wants_more() and await self._load_some():
                self._send()
        finally:
            self._loading = False

    def _wants_more(self) -> bool:
        return self.flight.connected and self.queue.unloaded > 0 \
            and len(self.flight.lanes[BACKLOG]) < CHUNK // 2

    async def _load_some(self) -> bool:
        """Read the next rows of the backlog; False where there are none."""
        mids = self.flight.take_mids(CHUNK)
        try:
            after, limit = self._loaded_key, len(mids)
            rows = await self._committer.read(lambda: self._outbox.load(after, limit, mids))
        except OutboxError as error:
            log.error("cannot read the backlog, trying again reason=%r", str(error))
            await asyncio.sleep(RETRY_S)
            return True
        finally:
            self.flight.free_mids(mids)  # those that load did not use
        if rows:
            self._loaded_key = rows[-1].key
        entries = [row for row in rows if row.key not in self._gone]
        if len(entries) < len(rows):  # dropped meanwhile; their row goes with the next commit
            unused = [row.mid for row in rows if row.key in self._gone and row.mid]
            self._committer.after(partial(self.flight.free_mids, unused))
        self.queue.loaded(entries, limit)
        old = self._expired(entries)
        self.flight.add(entries)
        if old:
            self._discard(old, "expired")
        return bool(rows)

    def _expired(self, entries: Iterable[Entry]) -> list[Entry]:
        if not self._keep_s:
            return []
        now_s = self._outbox.clock_s()
        return [e for e in entries if 0 < self._keep_s.get(e.route, 0) < now_s - e.age_s]

    def _expire_waiting(self) -> None:
        """Drop what waits in memory and is not worth sending any more."""
        old = [entry for lane in self.flight.lanes for entry in self._expired(lane)]
        if old:
            self._discard(old, "expired")

    async def watch(self) -> None:
        """Look after acknowledgements that do not come, for ever."""
        while True:
            await asyncio.sleep(1.0)
            now_s = time.monotonic()
            self._expire_waiting()
            if not self.flight.connected or self.upstream is None:
                continue
            late = self.flight.overdue(now_s, self._ack_timeout_s)
            if late is None:
                continue
            if now_s - self._progress_s < self._ack_timeout_s / 2 and self.flight.give_up(late):
                log.error("never acknowledged, set aside topic=%s", late.topic)
                self._set_aside(late, keep_mid=True)
                continue
            self.upstream.drop(f"no acknowledgement for {self._ack_timeout_s:.0f} s")

    def _spawn(self, name: str, job: object) -> None:
        # A task that has just ended is in the set until the loop's next pass.
        if any(task.get_name() == name and not task.done() for task in self._tasks):
            job.close()  # type: ignore[attr-defined]
            return
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(job, name=name)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
