"""A gateway without sockets and all that surrounds it, in one process on one event loop.

Nothing here depends on the time: a seed does the same in every run.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest

from gateway import (
    bridge,
    caution,
    commit,
    drain,
    journal,
    later,
    lost_session,
    mids,
    outbox,
    pacer,
    queue,
    trouble,
)
from gateway.batch import LANE_SHIFT, Row
from gateway.config import Config, ListenerConfig, OutboxConfig
from gateway.flight import Limits
from gateway.links import UpstreamConfig
from gateway.pacer import Pacer
from gateway.routes import REFUSED
from gateway.upstream import Upstream
from gateway.wire import Packet
from model.broker import Broker, Link
from model.devices import Device, Peer, Records, connect
from model.disk import RESERVE_BYTES, CountingDrain, Disk, DiskOutbox, HeldCommitter, SmallQueue
from model.house import House, routes
from model.rules import Options, hold

MIDS = 40
SMALL_OUTBOX_BYTES = 2500
PACKET_BYTES = 200  # the broker's limit
SETTLE_MOST = 6000
POLICIES = ("superseded", "drop-oldest", "expired")


class World:
    """trace: what happened, a line each. reached: how often what a run is there for."""

    def __init__(self, seed: int, options: Options, folder: Path,
                 patch: pytest.MonkeyPatch) -> None:
        self.rng, self.options = random.Random(seed), options
        self.trace: list[str] = []
        self.reached: Counter[str] = Counter()
        self.flooded = self.brisk = False
        self.waited: set[bytes] = set()  # payloads that were kept back, others overtake them
        self.disk = Disk(self.rng, self.reached)
        self.broker = Broker(self.rng, options, self.reached)
        self.devices = [Device(index, options) for index in range(3)]
        self.records = Records()
        self.link = Link(self.broker, self.rng.choice([1, 3, 1000]), self.trace.append)
        self._folder, self._patch = folder, patch
        self._prepare()
        self.boot()

    def _prepare(self) -> None:
        """Make everything small, so that a short run meets every limit, and nothing timed."""
        patch = self._patch
        patch.setattr(mids, "MIDS", MIDS)
        patch.setattr(mids, "random", self.rng)
        patch.setattr(journal, "RESERVE_BYTES", RESERVE_BYTES)
        patch.setattr(queue, "LIVE_MOST", 8)
        patch.setattr(drain, "CHUNK", 6)
        patch.setattr(outbox, "LOAD_BYTES", 20)  # of payload
        patch.setattr(drain, "LOAD_BYTES", 400)
        patch.setattr(queue, "LOAD_BYTES", 400)
        patch.setattr(drain, "RETRY_S", 0)
        patch.setattr(commit, "RETRY_S", 0)
        patch.setattr(pacer, "GATHER_S", 0)
        patch.setattr(lost_session, "RETRY_S", 0)
        for name in ("FIRST_S", "LONGEST_S", "PAUSE_S", "PAUSE_MOST_S", "AWAY_S"):
            patch.setattr(later, name, 0)
        patch.setattr(caution, "HOLD_S", 0)
        patch.setattr(caution, "ALONE_S", 0)
        patch.setattr(trouble, "SIZE_STANDS_S", 0)
        patch.setattr(trouble, "CALM_S", 0)
        patch.setattr(Pacer, "flooded", lambda _: self.flooded)
        patch.setattr(bridge, "Outbox", partial(DiskOutbox, self.disk))
        patch.setattr(bridge, "Committer", partial(HeldCommitter, self.disk))
        patch.setattr(bridge, "Queue", SmallQueue)
        patch.setattr(bridge, "Drain", CountingDrain)
        patch.setattr(CountingDrain, "reached", self.reached, raising=False)
        patch.setattr(House, "records", self.records, raising=False)
        self.pace()

    def pace(self) -> None:
        """It floods or not, all is brisk or not, deletes wait or not, the outbox grows older."""
        self.flooded, self.brisk = self.rng.random() < 0.15, self.rng.random() < 0.5
        self._patch.setattr(commit, "FAST_S", self.rng.choice([0, 0, 10]))
        self._patch.setattr(commit, "LAZY_S", self.rng.choice([0, 0, 100]))
        self._patch.setattr(drain, "PROOF_S", 0)
        self.disk.age_s += self.rng.randint(0, 3)

    # --- the gateway's life

    def boot(self) -> None:
        config = Config(id="g", listener=ListenerConfig(listen="127.0.0.1:0"),
                        outbox=OutboxConfig(path=str(self._folder / "outbox.db"), commit_ms=0),
                        upstream=UpstreamConfig(url="mqtt://127.0.0.1:1", protocol="5"),
                        route=routes(self.rng, self.options))
        self.bridge = House(config)
        self.outbox = cast(DiskOutbox, self.bridge.outbox)
        if self.options.policies:
            self.bridge.queue.max_bytes = SMALL_OUTBOX_BYTES
        self.bridge.drain.upstream = cast(Upstream, self.link)
        self._aside_before = self.bridge.queue.refused
        self._run = asyncio.get_running_loop().create_task(self.bridge.committer.run())
        for device in self.devices:
            self.join(device)

    async def stop(self) -> None:
        """As kill -9 does."""
        tasks = asyncio.all_tasks() - {cast("asyncio.Task[Any]", asyncio.current_task())}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self.bridge.drain.halt()
        self.disk.crash()
        cast(HeldCommitter, self.bridge.committer).kill()
        self.outbox.kill()
        self._count()

    async def crash(self) -> None:
        if self.bridge.drain.lost_session.busy:
            return  # the broker has begun a new session, and nothing on disk says so yet
        self.trace.append("crash")
        self.reached["crashes"] += 1
        for device in self.devices:
            if device.peer is not None:
                device.peer.gone = True
        await self.stop()
        self.link.cut(0)
        self.boot()

    def _count(self) -> None:
        made = self.bridge
        self.reached["set aside"] += made.queue.refused - self._aside_before
        self.reached["reject"] += made.counts["no_room"]
        self.reached["after a lost session"] += sum(made.drain.lost_session.counts.values())
        for reason in POLICIES:
            self.reached[reason] += made.queue.dropped[reason]

    def check(self) -> None:
        """What holds at every moment."""
        if self._run.done():
            self._run.result()
        flying = self.bridge.flight
        on_disk = [row[1] for row in self.outbox.rows() if row[1]]
        hold(len(on_disk) == len(set(on_disk)), f"packet identifier twice on disk: {on_disk}")
        taken, free_mids = flying.mids.taken, flying.mids.free
        free = set(on_disk) - taken
        hold(not free, f"packet identifier free while its row is on disk: {free}")
        self._note_waiting()
        hold(not taken.intersection(free_mids), "packet identifier free and taken")
        hold(len(free_mids) + len(taken) == MIDS, "packet identifier lost")

    def _note_waiting(self) -> None:
        flying = self.bridge.flight
        if self.bridge.drain.lost_session.busy:  # sent anew; after a crash behind the others
            self.waited.update(e.payload for e in flying.in_flight.values() if e.taken)
        if flying.held:
            self.waited.update(e.payload for e in (*flying.in_flight.values(), *flying.shelf)
                               if e.topic in flying.held)

    # --- devices

    def give(self, device: Device, packets: list[Packet]) -> None:
        """Packets of a device arrive at the gateway."""
        assert device.peer is not None
        self.bridge.clients.received(device.peer, packets, time.monotonic())

    def join(self, device: Device) -> None:
        """Connect. What it then sends may be lost on the way, and comes on the next connection."""
        while True:
            device.peer = Peer(device)
            self.give(device, [connect(device.name)])
            present = device.peer.session_present
            packets = device.again(present)
            if present or not packets or self.rng.random() < 0.5:
                break
            self.reached["lost behind a CONNECT"] += 1
            self.part(device)
        if packets:
            self.give(device, packets)

    def part(self, device: Device) -> None:
        assert device.peer is not None
        device.peer.gone = True
        self.bridge.clients.closed(device.peer, clean=self.rng.random() < 0.5)

    def send_releases(self) -> None:
        for device in self.devices:
            packets = device.releases()
            if packets:
                self.give(device, packets)

    # --- the broker

    def connect(self) -> None:
        if self.link.connected:
            return
        present = self.broker.connect()
        self.link.connected = True
        self.trace.append(f"connected, session present {present}, window {self.broker.window}")
        self.bridge.drain.upstream_connected(present, Limits(
            window=self.broker.window, max_qos=self.options.max_qos, v5=True,
            max_packet_bytes=PACKET_BYTES))

    def lose(self, *, by_broker: bool) -> None:
        if not self.link.connected:
            return
        self.trace.append(f"connection lost, by the broker {by_broker}")
        self.link.cut(self.rng.randint(0, self.link.on_the_way()))
        self.bridge.drain.upstream_lost(by_broker)

    def read_answers(self, count: int) -> None:
        acks = self.link.answers(count) if self.link.connected else []
        self._note_waiting()  # an answer may end what they wait for
        if acks:
            self.trace.append(f"gateway reads {acks}")
            self.bridge.drain.upstream_acks(acks)
            self.bridge.drain.upstream_writable()
        self._note_waiting()

    # --- the end

    async def drain_full(self) -> None:
        """The disk takes no new rows any more; check that what is on it goes upstream."""
        self.trace.append("the disk stays full")
        self.disk.full, self.disk.broken = True, False
        self.flooded = self.broker.refuses = self.broker.passing = False
        self._patch.setattr(commit, "LAZY_S", 0)
        reached = False
        for _ in range(SETTLE_MOST):
            if not self._on_disk():
                break
            reached = reached or self.bridge.committer.failing is not None
            await self._work()
        self.reached["full disks drained"] += reached
        left = self._on_disk()
        hold(not left, f"a full disk does not drain: {left}, in flight "
                       f"{self.bridge.flight.in_flight}")
        self.check()

    def _on_disk(self) -> list[Row]:
        """Rows that are to go upstream."""
        aside = cast(SmallQueue, self.bridge.queue).put_aside
        return [row for row in self.outbox.rows()
                if row[0] >> LANE_SHIFT != REFUSED and row[0] not in aside]

    async def settle(self) -> None:
        """Let everything work until nothing is left to do; check that this comes."""
        self.trace.append("settle")
        self.disk.full = self.flooded = self.broker.refuses = self.broker.passing = False
        self._patch.setattr(commit, "LAZY_S", 0)
        idle = 0
        for _ in range(SETTLE_MOST):
            await self._work()
            idle = idle + 1 if self._at_rest() else 0
            if idle > 10:
                break
        self.check()

    async def _work(self) -> None:
        """Everybody does what there is to do."""
        self.connect()
        self.disk.work()
        self.disk.tell()
        self.link.carry(5)
        self.bridge.drain.look()
        self.bridge.drain.upstream_writable()
        self.read_answers(9)
        self.send_releases()
        if self.bridge.committer.done:
            self.bridge.committer.wake()
        for _ in range(3):
            await asyncio.sleep(0)
        if self._run.done():
            self._run.result()

    def _at_rest(self) -> bool:
        stored = self.bridge.queue
        return self.disk.idle() and self.link.idle() and stored.depth <= stored.refused \
            and not self.bridge.committer.done
