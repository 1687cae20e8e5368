"""The bridge: ties listener, outbox and upstream together, and counts what passes.

devices → Clients → `_take` → Committer (disk) → acknowledgement and Drain → upstream
                          └─ QoS 0 and 1, early: Drain → upstream
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

from gateway import identity, wallclock, wire
from gateway.batch import Batch, Entry
from gateway.clients import Clients
from gateway.commit import RETRY_S, Committer
from gateway.config import Config
from gateway.control import Control, path_for
from gateway.devices import PREFIX, STEP_MS, Devices, Taken, ack_payload, device_of
from gateway.door import Door
from gateway.drain import Drain
from gateway.errors import OutboxError, ProtocolError
from gateway.flight import Flight
from gateway.leaving import Leaving
from gateway.listener import Listener
from gateway.local import Locals, Session
from gateway.local_broker import LocalBroker, session_id
from gateway.outbox import Outbox
from gateway.pacer import Pacer
from gateway.queue import Queue
from gateway.routes import Route, Router, Target
from gateway.status import answer, status_of
from gateway.upstream import Upstream
from gateway.zeros import Key

log = logging.getLogger("tidegate")

HELD_BYTES = 8 * 2**20  # of memory, waiting for the disk; above it nothing is read from devices
ASK_MS = 5000  # between two questions whether it is set


class Bridge:
    """One gateway. `open`, then `run`; `close` leaves everything on disk."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.counts: Counter[str] = Counter()
        self.port = 0
        path = Path(config.outbox.path)
        identity.begin(path, config.id)
        self.outbox = Outbox(path)
        self.moved = identity.keep(path, config.id)  # from another machine
        start = self.outbox.start()
        self.flight = Flight(dup_flag=config.upstream.dup_flag, qos_0=config.upstream.qos_0)
        self.flight.restore(start.entries)
        self.queue = Queue(start, config.outbox.max_bytes(), self.flight.mids)
        self.devices = Devices(start.seen, start.zeros)
        self.locals = Locals(start.retained)
        self.router = Router(config.route, config.upstream.topic_prefix)
        pacer = Pacer(config.outbox.commit_ms / 1000, config.outbox.commit_bytes)
        self.committer = Committer(self.outbox, pacer)
        self.leaving = Leaving(self.flight, self.queue, self.committer, self.outbox, config.route)
        self.status_topic = f"{config.upstream.topic_prefix}{PREFIX}gateway/{config.id}/status"
        self.drain = Drain(self.flight, self.queue, self.committer, self.outbox, self.leaving,
                           config.upstream, self.status_topic)
        # Unlike a client's, the session at a local broker may outlive us.
        at_broker: set[int] = set() if config.broker is None else start.received.pop(
            session_id(config.broker), set())
        self.clients = Clients(self.locals, self.committer, start.received, start.wills)
        self.clients.max_unacked_bytes = config.listener.max_unacked_bytes
        self.clients.intake = self._take
        self.clients.wills.intake = self._take_will
        self.drain.on_connected = self._say_online
        self.leaving.on_room = self.clients.room
        self.door = None if config.listener.credentials is None else Door(
            self.clients, Path(config.listener.credentials), config.allow,
            allow_anonymous=config.listener.allow_anonymous)
        self.listener = Listener(config.listener, self.door or self.clients)
        self.upstream = Upstream(config.upstream, self.drain, self.status_topic,
                                 forgotten=self._forgotten if self.outbox.forget else None)
        self.drain.upstream = self.upstream
        self.local_broker = None if config.broker is None else LocalBroker(
            config.broker, self.clients, at_broker)
        self.control = Control(path_for(self.outbox.path), partial(answer, self))
        self._fresh_batch: Batch | None = None
        self._asked_ms, self._clock_is_set = -math.inf, False
        self._tasks: list[asyncio.Task[Any]] = []
        log.info("outbox open path=%s depth=%d bytes=%d", config.outbox.path, start.depth,
                 start.used_bytes)

    async def open(self) -> None:
        """Listen and begin to work; `port` is then known."""
        loop = asyncio.get_running_loop()
        self.port = await self.listener.open()
        await self.control.open()
        loop.call_later(self.config.listener.will_grace_s, self.clients.wills.fire_old)
        jobs = [self.committer.run(), self.listener.run(), self.drain.watch(), self.upstream.run()]
        if self.local_broker is not None:
            jobs.append(self.local_broker.link.run())
        if self.door is not None:
            jobs.append(self.door.watch())
        self._tasks = [loop.create_task(job) for job in jobs]

    async def run(self) -> None:
        """Until a part fails, which none should."""
        done, _ = await asyncio.wait(self._tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()

    async def close(self) -> None:
        """Stop taking, put on disk what was taken, acknowledge it, say goodbye."""
        self.control.close()
        self.listener.stop_listening()
        if self.door is not None:
            self.door.close()
        if self.local_broker is not None:
            self.local_broker.hold(True)
        await self.drain.proven()
        try:
            await asyncio.wait_for(self.committer.settled(), 10)
        except TimeoutError:
            log.error("stopped with messages that could not be written; nobody was told otherwise")
        self.listener.close()
        if self.local_broker is not None:
            self.local_broker.link.close()
        self.upstream.close()
        await asyncio.sleep(0)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.committer.close()
        log.info("stopped depth=%d", self.queue.depth)

    # --- what comes in

    def _take(self, client_id: str, publishes: list[wire.Publish]) -> int:
        """Take publishes of one client in order; return how many there was room for."""
        committer, age_s = self.committer, self.outbox.clock_s()
        entries: list[Entry] = []
        touched: set[Session] = set()
        taken, early = 0, True
        try:
            for publish in publishes:
                if committer.held_bytes > HELD_BYTES:
                    break
                if publish.topic.startswith(PREFIX) and not publish.retain \
                        and (device := device_of(publish.topic)) is not None:
                    room = self._take_batch(client_id, device, publish, entries, age_s)
                    early = False  # the contract knows a batch that comes again
                else:
                    room = self._take_one(client_id, publish, entries, age_s)
                if not room:
                    self.counts["no_room"] += 1
                    break
                taken += 1
                if publish.retain:
                    self.locals.retain(publish)
                    committer.batch.retained[publish.topic] = publish if publish.payload else None
                if self.locals.subscribed:
                    self.locals.publish(publish, touched)
        finally:  # what the accounts have is on the disk, whatever happened to the next
            if entries:
                self._insert(entries, early=early)
        self.counts["received"] += taken
        for session in touched:
            self.clients.flush(session)
        self._overflow()
        return taken

    def _take_will(self, client_id: str, will: wire.Publish) -> bool:
        """Take a will for the upstream; False where there is no room for it."""
        entries: list[Entry] = []
        if self.committer.held_bytes > HELD_BYTES \
                or not self._take_one(client_id, will, entries, self.outbox.clock_s()):
            return False
        self.counts["received"] += 1
        if entries:
            self._insert(entries, early=True)
        self._overflow()
        return True

    def _insert(self, entries: list[Entry], *, early: bool = False) -> None:
        """Add to the next commit. early: they may go upstream before it."""
        committer = self.committer
        if not self.drain.offer(entries, early=early):
            committer.batch.late += entries
        committer.insert(entries)
        if self._fresh_batch is not committer.batch:
            self._fresh_batch = committer.batch
            committer.after(partial(self._stored, committer.batch))

    def _stored(self, batch: Batch) -> None:
        self.counts["stored"] += len(batch.insert)
        self.drain.committed(batch.late)
        self.clients.room()  # some may wait for the disk, not for the upstream

    def _take_one(self, client_id: str, publish: wire.Publish, entries: list[Entry],
                  age_s: int) -> bool:
        target = self.router.find(publish.topic)
        if target is None:
            self.counts["unrouted"] += 1
            return True
        added = self.queue.add(target, client_id, publish.payload, publish.qos, publish.retain,
                               age_s)
        if added is None:
            return False
        if added[1] is not None:
            self.leaving.supersede(added[1])
        entries.append(added[0])
        return True

    def _force(self, target: Target, source: str, payload: bytes, qos: int, age_s: int,
               entries: list[Entry], *, retain: bool = False) -> None:
        """Take what has to be taken, over the cap if need be."""
        added = self.queue.add(target, source, payload, qos, retain, age_s, force=True)
        assert added is not None
        entry, old = added
        if old is not None:
            self.leaving.supersede(old)
        entries.append(entry)

    def _take_batch(self, client_id: str, device: str, publish: wire.Publish,
                    entries: list[Entry], age_s: int) -> bool:
        """A contract batch: its new records into the outbox, one acknowledgement back.

        They count as the client's: what it publishes beside them keeps its place.
        Once accepted all of it is taken, over the cap if need be: the acknowledgement speaks of
        all of it.
        """
        route = self.router.find(publish.topic)
        if route is not None and self.queue.full(len(publish.payload) * 2) \
                and route.route.full == "reject":
            return False
        utc_ms, mono_ms, is_set = self._clock()
        try:
            taken = self.devices.take(device, publish.payload, utc_ms, mono_ms, is_set=is_set)
        except ProtocolError as error:
            self.counts["unreadable"] += 1
            log.warning("batch kept as it came device=%s reason=%r", device, str(error))
            return self._take_one(client_id, publish, entries, age_s)
        if route is not None:
            if route.route.format == "bytes":
                if taken.records:
                    self._force(route, client_id, publish.payload, publish.qos, age_s, entries)
            else:
                for sensor, payload in taken.records:
                    target = self.router.find(publish.topic, f"{PREFIX}{device}/data/{sensor}")
                    assert target is not None
                    self._force(target, client_id, payload, publish.qos, age_s, entries)
        self._count(taken.key, len(taken.records), taken.duplicates, taken.holes,
                    taken.device_dropped)
        if taken.seq:
            self.committer.batch.seen[taken.key] = taken.seq
            self.committer.batch.seen.update(dict.fromkeys(taken.forgotten, 0))
        self.committer.batch.zeros.update(taken.zeros)
        if abs(taken.step_ms) >= STEP_MS:
            self.counts["clock_steps"] += 1
            log.warning("wall clock stepped by_s=%.1f; records from now on have its time, those "
                        "before had it as it was", taken.step_ms / 1000)
        self.committer.after(partial(self._acknowledge, device, taken))
        return True

    def _acknowledge(self, device: str, taken: Taken) -> None:
        """Tell a device how far its records are on disk, and what time it is now."""
        self._say(wire.Publish(f"{PREFIX}{device}/down/ack", ack_payload(taken, self.utc_ms()), 0,
                               False, False, 0))

    def _clock(self) -> tuple[int | None, float, bool]:
        """The wall clock, None where it has not been set, and the monotonic one [ms]; whether a
        time service says that the first is right."""
        utc_ms, mono_ms = self.utc_ms(), time.monotonic() * 1000
        if mono_ms >= self._asked_ms + ASK_MS:
            self._asked_ms, self._clock_is_set = mono_ms, wallclock.is_set()
        return utc_ms, mono_ms, self._clock_is_set

    def _count(self, key: Key, new: int, duplicates: int, holes: int, dropped: int) -> None:
        self.counts["records"] += new
        self.counts["duplicates"] += duplicates
        self.counts["holes"] += holes
        self.counts["device_dropped"] += dropped
        if dropped:
            log.warning("device dropped records device=%s boot=%d records=%d", key[0], key[2],
                        dropped)

    def _overflow(self) -> None:
        """At the cap, routes that drop their oldest make room."""
        for route in self.config.route if self.queue.full(0) else ():
            if route.full == "drop-oldest":
                self.leaving.make_room(route)

    # --- what goes out beside it

    def _say(self, message: wire.Publish) -> None:
        """Publish to local clients only, and to those behind a broker that we subscribe to."""
        if self.local_broker is not None:
            self.local_broker.publish(message)
        touched: set[Session] = set()
        self.locals.publish(message, touched)
        for session in touched:
            self.clients.flush(session)
            conn = self.clients.connection(session.client_id)
            if conn is not None:
                conn.acked_s = time.monotonic()

    def _say_online(self) -> None:
        """Upstream knows that we are there: retained, through the outbox like everything else.

        One that is in flight is sent again by itself.
        """
        if self.drain.trouble.silenced or any(
                entry.topic == self.status_topic for entry in self.flight.in_flight.values()):
            return
        target = self.router.own(self.status_topic)
        entries: list[Entry] = []
        self._force(target, f"gateway/{self.config.id}", b"online", 1, self.outbox.clock_s(),
                    entries, retain=True)
        self._insert(entries)

    async def _forgotten(self) -> None:
        """The upstream holds nothing of ours: on disk before anything is sent, since to forget
        once more would then lose what it holds."""
        while True:
            try:
                await self.committer.read(self.outbox.forgotten)
                return
            except OutboxError as error:
                log.error("cannot note that the upstream forgot, sending nothing reason=%r",
                          str(error))
                await asyncio.sleep(RETRY_S)

    @staticmethod
    def utc_ms() -> int | None:
        """The wall clock [ms], None where it has not been set yet."""
        return wallclock.utc_ms()

    def use_routes(self, routes: list[Route]) -> None:
        """Route what comes from now on like this; what is in the outbox keeps its topic."""
        self.config.route = routes
        self.router = Router(routes, self.config.upstream.topic_prefix)
        self.leaving.use_routes(routes)

    def status(self) -> dict[str, Any]:
        """What a person or a script wants to know; see status.py."""
        return status_of(self)
