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
from gateway.commit import RETRY_S, Committer
from gateway.errors import OutboxError
from gateway.flight import Flight, Limits
from gateway.leaving import Leaving
from gateway.links import UpstreamConfig
from gateway.lost_session import LostSession
from gateway.outbox import LOAD_BYTES, Outbox
from gateway.queue import Queue
from gateway.reasons import NOBODY
from gateway.routes import BACKLOG
from gateway.trouble import Trouble
from gateway.unproven import Unproven
from gateway.upstream import Upstream

log = logging.getLogger("tidegate.drain")

BACKLOG_KEY = BACKLOG << LANE_SHIFT
CHUNK = 1000  # rows of the backlog read at once, or LOAD_BYTES
SEND_BYTES = 131_072
PROOF_S = 0.05  # how often it is looked whether what went at QoS 0 has left
STOP_S = 1.0  # how long a stop waits for that
SHELF_MOST = 4096  # messages kept back, above which no more of the backlog is read


class Drain:
    """The upstream's listener (see upstream.Listener) and the one that sends from Flight."""

    def __init__(self, flight: Flight, queue: Queue, committer: Committer, outbox: Outbox,
                 leaving: Leaving, config: UpstreamConfig, own_topic: str = "") -> None:
        self.flight, self.queue, self.leaving = flight, queue, leaving
        self.trouble = Trouble(flight, queue, committer, leaving, own_topic)
        self.lost_session = LostSession(flight, queue, committer, outbox, leaving,
                                        resend=config.after_lost_session == "resend")
        self.upstream: Upstream | None = None
        self.on_connected: Callable[[], None] = lambda: None
        self._committer, self._outbox = committer, outbox
        self._ack_timeout_s = config.ack_timeout_s
        self._loading: asyncio.Task[None] | None = None
        self._behind = 0  # messages that wait for the disk
        self._commits = 0
        self._held: dict[str, int] = {}  # source → commit with which its last such message comes
        self._offered = False
        self._progress_s = 0.0
        self._limits: Limits | None = None  # of the connection that stands
        self._looking: asyncio.TimerHandle | None = None
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
        self._limits = limits
        self.lost_session.begin(session_present, self._begin)

    def _begin(self, session_present: bool) -> None:
        """Send; session_present: the one in which all was sent that is in flight."""
        limits, self._progress_s = self._limits, time.monotonic()
        if limits is None:
            return  # lost again meanwhile
        first = self.trouble.connected(limits, self._progress_s)
        self.flight.start(session_present, limits, first)
        self.leaving.expire_waiting()
        self.on_connected()
        self.upstream_writable()

    def upstream_lost(self, by_broker: bool, code: int = 0) -> None:
        self._limits = None
        if self.flight.connected:
            self.trouble.lost(by_broker=by_broker and code not in NOBODY, code=code,
                              now_s=time.monotonic())
        self.flight.stop()
        if self._proving is not None:
            self._proving.cancel()
            self._prove()
            self.flight.unsend(self._unproven.lost())

    def upstream_acks(self, acks: list[wire.Ack]) -> None:
        if not self.flight.connected:
            return
        progress, trouble = self.flight.acks(acks), self.trouble
        self._progress_s = time.monotonic()
        if self.flight.lowered and not self._lowered_said:
            self._lowered_said = True
            log.warning("the broker takes QoS 2 at QoS 1: nothing is lost, some may come twice")
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
        taken = len(progress.done) + len(progress.release)
        trouble.passed(taken)
        for entry, reason in progress.refused:
            trouble.refused(entry, reason, self._progress_s)
        for entry in progress.strangers:
            self._rename(entry)
        if trouble.busy():
            trouble.answered(taken, len(acks), self._progress_s)
            self._look_soon()

    def _released(self, entries: list[Entry]) -> None:
        parts = self.flight.released(entries, time.monotonic())
        if parts:
            self._write(parts)

    def _rename(self, entry: Entry) -> None:
        """The upstream holds a stranger under its packet identifier: send it under another, when
        that is on disk."""
        found = self.flight.mids.take_mids(1)
        if not found:  # 65,535 in use: behind its PUBREL this one can be used as well
            self.flight.strangers.forget(entry.mid)
            self.flight.in_flight[entry.mid] = entry
            self.flight.alone(entry)
            return
        log.warning("the upstream holds another message under a packet identifier mid=%d "
                    "topic=%s", entry.mid, entry.topic)
        old, entry.mid = entry.mid, found[0]
        self._committer.batch.moved.append((entry.key, entry.key, entry.mid))
        self._committer.after(partial(self._renamed, entry, old))

    def _renamed(self, entry: Entry, old_mid: int) -> None:
        self.flight.strangers.renamed(old_mid)
        self.flight.put_back([entry])
        self._send()

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
            if self.flight.oversized:
                self.trouble.too_big(self.flight.oversized, now_s)
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
        for timer in self._proving, self._looking:
            if timer is not None:
                timer.cancel()

    async def proven(self) -> None:
        """Wait for what was sent at QoS 0 to leave, for a moment."""
        until_s = time.monotonic() + STOP_S
        while self._unproven and time.monotonic() < until_s:
            await asyncio.sleep(PROOF_S / 5)
            if self._proving is not None:
                self._proving.cancel()
                self._prove()

    def _look_soon(self) -> None:
        """Have what is due in less than a second done then."""
        if self._looking is not None:
            self._looking.cancel()
        self._looking = asyncio.get_running_loop().call_later(
            self.trouble.next_s(time.monotonic()), self.look)

    def look(self) -> None:
        """Do what is due where the upstream is in trouble."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        if self.flight.connected:
            self.trouble.look(time.monotonic())
            self._send()
            if self.trouble.busy():
                self._look_soon()

    # --- the backlog

    async def _load(self) -> None:
        while self._wants_more() and await self._load_some():
            self._send()

    def _wants_more(self) -> bool:
        return self.flight.connected and self.queue.unloaded > 0 \
            and len(self.flight.lanes[BACKLOG]) < CHUNK // 2 \
            and len(self.flight.shelf) < SHELF_MOST \
            and self.queue.loaded_bytes < LOAD_BYTES

    async def _load_some(self) -> bool:
        """Read the next rows of the backlog; False where there are none."""
        mids = self.flight.mids.take_mids(CHUNK)
        try:
            after, limit = self.leaving.loaded_key, len(mids)
            rows = await self._committer.read(lambda: self._outbox.load(after, limit, mids))
        except OutboxError as error:
            log.error("cannot read the backlog, trying again reason=%r", str(error))
            await asyncio.sleep(RETRY_S)
            return True
        finally:
            self.flight.mids.free_mids(mids)  # those that load did not use
        if rows:
            self.leaving.loaded_key = rows[-1].key
        gone = self.leaving.gone
        entries = [row for row in rows if row.key not in gone]
        if len(entries) < len(rows):  # dropped meanwhile; their row goes with the next commit
            unused = [row.mid for row in rows if row.key in gone and row.mid]
            self._committer.after(partial(self.flight.mids.free_mids, unused))
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
            self.look()
            if self.upstream is not None and self.flight.connected:
                self._check_answers(self.upstream, now_s, self._ack_timeout_s)

    def _check_answers(self, upstream: Upstream, now_s: float, limit_s: float) -> None:
        """Give the link up where no answers come, or one does not while later ones do. A broker
        that takes two a second answers the twentieth after 10 s: that is no reason."""
        late = self.flight.overdue(now_s, limit_s)
        if late is None or not self._had_left(late, now_s - limit_s):
            return
        if self.flight.passed_s - late.sent_s > limit_s:
            if self.trouble.never_acknowledged(late):
                return
        elif now_s - self._progress_s <= limit_s:
            return
        else:
            self.trouble.lost(by_broker=True, now_s=now_s)
        upstream.drop(f"no acknowledgement for {limit_s:.0f} s")

    def _had_left(self, entry: Entry, by_s: float) -> bool:
        """Whether an entry in flight was with the other end by then: a long message on a slow line
        is not late before it is out."""
        left_s = None if self.upstream is None else self.upstream.left_s(entry.sent_s)
        return left_s is not None and left_s <= by_s
