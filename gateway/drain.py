"""From the outbox to the upstream: messages are sent, and deleted on their acknowledgement.

At QoS 1 and 0 only the PUBACK to the device waits for the disk, the message goes out at once:
after a crash in between the device sends it again, and the upstream may have it twice, as QoS 1
allows. At QoS 2 it waits, see flight.py.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from functools import partial

from gateway import wire
from gateway.batch import LANE_SHIFT, Entry
from gateway.caution import Caution
from gateway.commit import RETRY_S, Committer
from gateway.errors import OutboxError
from gateway.flight import Flight, Limits
from gateway.leaving import Leaving
from gateway.outbox import LOAD_BYTES, Outbox
from gateway.queue import Queue
from gateway.routes import BACKLOG
from gateway.unproven import Unproven
from gateway.upstream import Upstream

log = logging.getLogger("tidegate.drain")

BACKLOG_KEY = BACKLOG << LANE_SHIFT
CHUNK = 1000  # rows of the backlog read at once, or LOAD_BYTES
SEND_BYTES = 131_072
PROOF_S = 0.05  # how often it is looked whether what went at QoS 0 has left
STOP_S = 1.0  # how long a stop waits for that


class Drain:
    """The upstream's listener (see upstream.Listener) and the one that sends from Flight."""

    def __init__(self, flight: Flight, queue: Queue, committer: Committer, outbox: Outbox,
                 leaving: Leaving, ack_timeout_s: float) -> None:
        self.flight, self.queue, self.leaving = flight, queue, leaving
        self.upstream: Upstream | None = None
        self.on_connected: Callable[[], None] = lambda: None
        self._committer, self._outbox = committer, outbox
        self._ack_timeout_s = ack_timeout_s
        self._loading: asyncio.Task[None] | None = None
        self._behind = 0  # messages that wait for the disk
        self._commits = 0
        self._held: dict[str, int] = {}  # source → commit with which its last such message comes
        self._offered = False
        self._progress_s = 0.0
        self._caution = Caution()
        self._window = 0
        self._lowered_said = False
        self._unproven = Unproven()
        self._proving: asyncio.TimerHandle | None = None
        leaving.on_left = self._load_more

    # --- entries

    def offer(self, entries: list[Entry], *, early: bool) -> bool:
        """Take entries that are on their way to the disk, if they may go out early and that is
        quicker; all or none. The others come with `committed`, and nothing of their source
        overtakes them."""
        committer = self._committer
        if early and not committer.flooded and committer.failing is None \
                and self.flight.connected and all(map(self._may_go, entries)):
            self.flight.add(entries)
            if not self._offered:  # one write for all of a wake-up
                self._offered = True
                asyncio.get_running_loop().call_soon(self._send_offered)
            return True
        self._behind += len(entries)
        for entry in entries:
            self._held[entry.source] = self._commits + 2  # one may be under way without them
        return False

    def _may_go(self, entry: Entry) -> bool:
        return entry.qos < 2 and entry.key < BACKLOG_KEY \
            and self._held.get(entry.source, 0) <= self._commits

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

    # --- what the link tells

    def upstream_connected(self, session_present: bool, limits: Limits) -> None:
        self._window = limits.window
        if self._caution.connected():
            limits.window = 1
            log.warning("the broker closes on what we send, sending one at a time")
        orphans = self.flight.start(session_present, limits)
        if orphans:
            self.leaving.remove(orphans)
        self._progress_s = time.monotonic()
        self.leaving.expire_waiting()
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
        if self._proving is not None:
            self._proving.cancel()
            self._prove()
            self.flight.unsend(self._unproven.lost())

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
            self.leaving.remove(progress.done)
            if self.queue.unloaded and self.queue.loaded_bytes >= LOAD_BYTES:
                self._committer.hurry(self._progress_s)  # more is loaded only with this commit
        if progress.release:
            if self.flight.queued():  # the window opens only with this commit
                self._committer.hurry(self._progress_s)
            self._committer.release(progress.release, partial(self._released, progress.release))
        for entry, reason in progress.refused:
            log.error("upstream refuses a message, set aside topic=%s reason=0x%02x", entry.topic,
                      reason)
            self._set_aside(entry, keep_mid=False)

    def _released(self, entries: list[Entry]) -> None:
        parts = self.flight.released(entries, time.monotonic())
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
        self._load_more()

    def _load_more(self) -> None:
        """Have more of the backlog read, if there is room for it in memory."""
        if self._wants_more() and (self._loading is None or self._loading.done()):
            self._loading = asyncio.get_running_loop().create_task(self._load())

    def _send(self) -> None:
        upstream = self.upstream
        while upstream is not None and upstream.writable():
            now_s = time.monotonic()
            parts, ended = self.flight.send(SEND_BYTES, now_s)
            for entry in self.flight.oversized:
                log.error("too big for the upstream, set aside topic=%s bytes=%d", entry.topic,
                          len(entry.payload))
                self._set_aside(entry, keep_mid=entry.sent)
            self.flight.oversized.clear()
            if not parts:
                break
            if ended:
                self._unproven.sent(ended, now_s)
                if self._proving is None:
                    self._prove_soon()
            upstream.write(parts)

    def _prove_soon(self) -> None:
        self._proving = asyncio.get_running_loop().call_later(PROOF_S, self._prove)

    def _prove(self) -> None:
        """Delete what was sent at QoS 0 and has left; look again later after the rest."""
        self._proving = None
        if self.upstream is not None and (gone := self._unproven.arrived(self.upstream.left_s)):
            self.leaving.remove(gone)
        if self._unproven:
            self._prove_soon()

    def halt(self) -> None:
        """Look no more, at the end."""
        if self._proving is not None:
            self._proving.cancel()

    async def proven(self) -> None:
        """Wait for what was sent at QoS 0 to leave, for a moment."""
        until_s = time.monotonic() + STOP_S
        while self._unproven and time.monotonic() < until_s:
            await asyncio.sleep(PROOF_S / 5)
            if self._proving is not None:
                self._proving.cancel()
                self._prove()

    # --- the backlog

    async def _load(self) -> None:
        while self._wants_more() and await self._load_some():
            self._send()

    def _wants_more(self) -> bool:
        return self.flight.connected and self.queue.unloaded > 0 \
            and len(self.flight.lanes[BACKLOG]) < CHUNK // 2 \
            and self.queue.loaded_bytes < LOAD_BYTES

    async def _load_some(self) -> bool:
        """Read the next rows of the backlog; False where there are none."""
        mids = self.flight.take_mids(CHUNK)
        try:
            after, limit = self.leaving.loaded_key, len(mids)
            rows = await self._committer.read(lambda: self._outbox.load(after, limit, mids))
        except OutboxError as error:
            log.error("cannot read the backlog, trying again reason=%r", str(error))
            await asyncio.sleep(RETRY_S)
            return True
        finally:
            self.flight.free_mids(mids)  # those that load did not use
        if rows:
            self.leaving.loaded_key = rows[-1].key
        gone = self.leaving.gone
        entries = [row for row in rows if row.key not in gone]
        if len(entries) < len(rows):  # dropped meanwhile; their row goes with the next commit
            unused = [row.mid for row in rows if row.key in gone and row.mid]
            self._committer.after(partial(self.flight.free_mids, unused))
        self.queue.loaded(entries, limit)
        old = self.leaving.expired(entries)
        self.flight.add(entries)
        if old:
            self.leaving.discard(old, "expired")
        return bool(rows)

    async def watch(self) -> None:
        """Look after acknowledgements that do not come, for ever."""
        while True:
            await asyncio.sleep(1.0)
            now_s = time.monotonic()
            self.leaving.expire_waiting()
            self._load_more()  # what was set aside made room
            if not self.flight.connected or self.upstream is None:
                continue
            late = self.flight.overdue(now_s, self._ack_timeout_s)
            if late is None or not self._had_left(late, now_s - self._ack_timeout_s):
                continue
            if now_s - self._progress_s < self._ack_timeout_s / 2 and self.flight.give_up(late):
                log.error("never acknowledged, set aside topic=%s", late.topic)
                self._set_aside(late, keep_mid=True)
                continue
            self.upstream.drop(f"no acknowledgement for {self._ack_timeout_s:.0f} s")

    def _had_left(self, entry: Entry, by_s: float) -> bool:
        """Whether an entry in flight was with the other end by then: a long message on a slow line
        is not late before it is out."""
        left_s = None if self.upstream is None else self.upstream.left_s(entry.sent_s)
        return left_s is not None and left_s <= by_s
