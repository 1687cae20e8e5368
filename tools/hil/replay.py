"""Replay: the recorded clients again, each publish at its own deadline.

The deadline of an event is t0 + t / speed, so what is late once makes nothing after it later.
Lateness is how long after its deadline an event was given to its client: the replay's own doing.
How long the client then had to wait for its link or for an acknowledgement is the peer's; only
where MOST_HELD messages wait does the replay wait too, and then it is late.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

from tools.hil.actor import Actor, Item
from tools.hil.histogram import Histogram
from tools.hil.recording import Event, read
from tools.ports import HOST

MOST_HELD = 20_000
TICK_S = 0.5
LEAD_S = 0.05
BREATH = 64
"""After so many events without a pause the clients get their turn."""


class Report(msgspec.Struct, kw_only=True):
    """What a replay did. budget_ms: what the p99 of its lateness may be [ms]; 0 for any."""

    events: int = 0
    published: int = 0
    acknowledged: int = 0
    unfinished: int = 0
    clients: int = 0
    retransmissions_left_out: int = 0
    seconds: float = 0.0
    budget_ms: float = 0.0
    late: dict[str, float] = {}

    @property
    def valid(self) -> bool:
        """Whether it was punctual enough to be judged."""
        return not self.budget_ms or self.late.get("p99_ms", 0.0) <= self.budget_ms

    @property
    def line(self) -> str:
        """The report in one line."""
        late = self.late
        verdict = "" if self.valid else f" INVALID: later than {self.budget_ms:g} ms at p99"
        return (f"replayed {self.events} events of {self.clients} clients in {self.seconds:.1f} s:"
                f" published={self.published} acknowledged={self.acknowledged} "
                f"unfinished={self.unfinished}; late p50={late.get('p50_ms', 0):g} "
                f"p99={late.get('p99_ms', 0):g} max={late.get('max_ms', 0):g} ms{verdict}")


def looped(make: Callable[[], Iterable[Event]], loops: int) -> Iterator[Event]:
    """Give the events of a recording so many times, one after the other."""
    offset_ns = 0
    for _ in range(loops):
        last_ns = 0
        for event in make():
            last_ns = event.t
            yield msgspec.structs.replace(event, t=event.t + offset_ns) if offset_ns else event
        offset_ns += last_ns


def copies(events: Iterable[Event], count: int) -> Iterator[Event]:
    """Give each event for `count` clients: its own, and copies with a number at the identifier.

    A topic level that is the client's identifier gets the number too.
    """
    for event in events:
        yield event
        for number in range(2, count + 1):
            name = f"{event.c}-{number}"
            topic = "/".join(name if level == event.c else level
                             for level in event.topic.split("/"))
            will = event.will
            if will is not None:
                will = msgspec.structs.replace(will, topic="/".join(
                    name if level == event.c else level for level in will.topic.split("/")))
            yield msgspec.structs.replace(event, c=name, topic=topic, will=will)


class Replay:
    """Plays events to a port. speed: 1 as recorded, 2 twice as fast, 0 as fast as acknowledged.

    keep: whether to keep each Item in `items`, for a judge; without it the memory is constant.
    clean: for clients that the recording does not say it of. progress: called now and then with
    the number of events done and the offset of the last [s].
    """

    def __init__(self, port: int, *, speed: float = 1.0, window: int = 100,
                 budget_ms: float = 0.0, keep: bool = False, clean: bool = True,
                 side: str = "device", host: str = HOST,
                 progress: Callable[[int, float], None] | None = None) -> None:
        self.actors: dict[str, Actor] = {}
        self.items: list[Item] = []
        self.late = Histogram()
        self.report = Report(budget_ms=budget_ms)
        self.began_ns = 0
        self._port, self._speed, self._window, self._keep = port, speed, window, keep
        self._clean, self._side, self._host = clean, side, host
        self._progress = progress or (lambda events, seconds: None)

    def actor(self, client: str) -> Actor:
        """Return who plays a client."""
        found = self.actors.get(client)
        if found is None:
            found = self.actors[client] = Actor(
                self._port, client, window=self._window, clean=self._clean, host=self._host)
        return found

    async def run(self, events: Iterable[Event], *, drain_s: float = 30.0) -> Report:
        """Play all events, wait at most drain_s [s] for acknowledgements, and disconnect."""
        try:
            await self.play(events)
            await self.drain(drain_s)
        finally:
            await self.close()
        return self.sum_up()

    async def play(self, events: Iterable[Event]) -> None:
        """Play all events; the clients stay connected."""
        ticking = asyncio.create_task(self._tick())
        self.began_ns = time.monotonic_ns() + (int(LEAD_S * 1e9) if self._speed else 0)
        done = 0
        try:
            for event in events:
                if event.side and event.side != self._side:
                    continue
                await self._one(event)
                done += 1
                if done % BREATH == 0:
                    await self._breathe(done, event.t / 1e9)
        finally:
            ticking.cancel()
            self.report.events += done
            self.report.seconds = (time.monotonic_ns() - self.began_ns) / 1e9

    async def _one(self, event: Event) -> None:
        due_ns = self.began_ns + int(event.t / self._speed) if self._speed else 0
        if due_ns:
            wait_s = (due_ns - time.monotonic_ns()) / 1e9
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            self.late.add((time.monotonic_ns() - due_ns) / 1e6)
        actor = self.actor(event.c)
        if event.e != "publish":
            actor.do(event)
        elif event.dup:
            self.report.retransmissions_left_out += 1  # this client sends again by itself
        else:
            item = Item(event.c, event.topic, event.payload, event.qos, event.retain, due_ns)
            if self._keep:
                self.items.append(item)
            actor.do(item)
            while not self._speed and len(actor.queue) > 0:
                await asyncio.sleep(0)
                if len(actor.queue) > 0:
                    await asyncio.sleep(0.001)
                    actor.pump()

    async def _breathe(self, done: int, at_s: float) -> None:
        self._progress(done, at_s)
        await asyncio.sleep(0)
        while sum(len(actor.queue) for actor in self.actors.values()) > MOST_HELD:
            await asyncio.sleep(0.005)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self.tick()

    def tick(self) -> None:
        """Let the clients ping, and try again; where neither play nor drain runs."""
        for actor in self.actors.values():
            actor.tick()

    @property
    def idle(self) -> bool:
        """Whether every client has done all it was told, acknowledgements included."""
        return all(actor.idle for actor in self.actors.values())

    async def drain(self, timeout_s: float) -> bool:
        """Wait until all is acknowledged; tells whether that was within timeout_s [s]."""
        ticking = asyncio.create_task(self._tick())
        deadline_s = time.monotonic() + timeout_s
        try:
            while not self.idle and time.monotonic() < deadline_s:
                await asyncio.sleep(0.005)
                for actor in self.actors.values():
                    actor.pump()
        finally:
            ticking.cancel()
        return self.idle

    async def close(self) -> None:
        """Disconnect all."""
        await asyncio.gather(*(actor.close() for actor in self.actors.values()))

    def sum_up(self) -> Report:
        """Return the report as it stands."""
        actors = self.actors.values()
        report = self.report
        report.clients = len(self.actors)
        report.published = sum(actor.published for actor in actors)
        report.acknowledged = sum(actor.acknowledged for actor in actors)
        report.unfinished = sum(
            len(actor.flying) + sum(isinstance(item, Item) for item in actor.queue)
            for actor in actors)
        report.late = self.late.summary()
        return report


async def replay_file(path: Path, port: int, *, loops: int = 1, clients: int = 1,
                      drain_s: float = 30.0, replay: Replay) -> Report:
    """Replay a recording so many times with so many copies of each client."""
    return await replay.run(copies(looped(lambda: read(path), loops), clients), drain_s=drain_s)
