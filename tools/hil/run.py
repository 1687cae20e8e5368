"""A scenario from its first connection to its verdict.

Rules:
- Traffic and faults begin together; a fault that lasts until 1 is taken back when all traffic was
  sent. Then everything is healed, and clients get `drain_s` to have all acknowledged.
- What is owed has to arrive; while some of it still arrives there is time. After `drain_s` in
  which nothing did, what is missing is lost.
- Then SETTLE_S without anything new on the wire, so that a late double is seen.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from tools.arrival import Arrival, record_of
from tools.hil import traffic as made
from tools.hil.bench import Bench, NoBoardError
from tools.hil.evidence import Evidence, WillOwed
from tools.hil.faults import FAULTS, FaultError
from tools.hil.feeder import Feeder
from tools.hil.judgement import judge
from tools.hil.outcome import Moment, Run
from tools.hil.replay import Replay
from tools.hil.scenario import Fault, Scenario, Traffic
from tools.hil.site import Site, wall_offset_s
from tools.procs import ChildError
from tools.verdict import Message, Record

SETTLE_S = 0.4
DEPTH_EVERY_S = 0.25
Say = Callable[[str], None]


class _Runner:
    def __init__(self, site: Site, run: Run, say: Say) -> None:
        self.site, self.run, self.say = site, run, say
        self.invalid: list[str] = []
        self.arrived: Counter[Message] = Counter()
        self.records: set[Record] = set()
        self.looked_at = 0
        self.gateway_ended = 0
        self.last_heal_ns = 0
        self.replays: list[tuple[Traffic, Replay]] = []
        self.vanished: set[str] = set()

    def now_s(self) -> float:
        return (time.monotonic_ns() - self.run.began_ns) / 1e9

    def note(self, kind: str, what: str) -> None:
        self.run.moments.append(Moment(self.now_s(), kind, what))
        self.say(f"{self.now_s():6.1f} s  {what}")

    async def play(self) -> None:
        """Traffic and faults, to the end of both."""
        scenario, seconds = self.site.scenario, self.run.seconds
        self.run.began_ns = time.monotonic_ns()
        watching = [asyncio.create_task(self._watch())]
        if self.site.playback is not None:
            watching += [asyncio.create_task(self.site.playback.run(
                board.world, scenario.boards.speed)) for board in self.site.boards]
        scale = seconds / scenario.seconds
        playing = []
        for traffic in scenario.traffic:
            fast = not traffic.rate_per_s and not traffic.recording
            replay = Replay(self.site.links[traffic.link].port, keep=True, clean=False,
                            host=self.site.bench.host,
                            speed=0.0 if fast else traffic.speed,
                            budget_ms=0.0 if fast else traffic.late_p99_ms)
            self.replays.append((traffic, replay))
            scaled = msgspec.structs.replace(
                traffic, messages=math.ceil(traffic.messages * scale))
            playing.append(asyncio.create_task(
                replay.play(made.events(scaled, seconds, Path(scenario.folder)))))
        over = asyncio.Event()
        faults = [asyncio.create_task(self._fault(fault, span, over))
                  for fault in scenario.faults for span in fault.spans]
        try:
            await asyncio.gather(*playing, asyncio.sleep(seconds))
            over.set()
            await asyncio.gather(*faults)
            await self.site.heal()
            self.note("note", "the traffic is over, every fault is taken back")
            await self._finish()
        finally:
            for task in [*watching, *playing, *faults]:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)

    async def _fault(self, fault: Fault, span: tuple[float, float], over: asyncio.Event) -> None:
        kind, (at, until) = FAULTS[fault.do], span
        where = f" ({fault.link})" if fault.do.startswith("link.") else ""
        await asyncio.sleep(max(0.0, at * self.run.seconds - self.now_s()))
        try:
            self.note("fault", kind.what + where)
            await kind.begin(self.site, fault)
            if kind.end is not None:
                if until >= 1:
                    await over.wait()
                else:
                    await asyncio.sleep(max(0.0, until * self.run.seconds - self.now_s()))
                await kind.end(self.site, fault)
                self.note("heal", f"over: {kind.what}{where}")
        except (FaultError, NoBoardError, ChildError, OSError, TimeoutError) as error:
            self.invalid.append(f"{fault.do}: {error}")
        self.last_heal_ns = max(self.last_heal_ns, time.monotonic_ns())

    async def _finish(self) -> None:
        """Wait for what is owed."""
        drain_s = self.site.scenario.drain_s
        for _, replay in self.replays:
            await replay.drain(drain_s)
        for traffic, replay in self.replays:
            for name in made.clients(traffic)[: traffic.vanish]:
                replay.actor(name).vanish()
                self.vanished.add(name)
        if self.vanished:
            self.note("note", f"{len(self.vanished)} clients vanish without DISCONNECT")
        for board in self.site.boards:
            if isinstance(board.world, Feeder):
                self.note("note", f"{board.name} felt {board.world.felt} values; "
                          f"{board.world.passed_over} were set anew before they could be fed")
        missing = self._owed()
        self.owed_records = frozenset(self.site.told())
        self.note("note", f"{sum(missing.values()) + len(self.owed_records)} messages are owed")
        deadline_s, before = time.monotonic() + drain_s, -1
        while time.monotonic() < deadline_s:
            self._look()
            missing = Counter({message: count for message, count in missing.items()
                               if self.arrived[message] < count})
            left = len(missing) + len(self.owed_records - self.records)
            if not left:
                break
            if left != before:  # boards never stop sending: only what is owed is progress
                before, deadline_s = left, time.monotonic() + drain_s
            await asyncio.sleep(0.02)
        await self._settle()
        left = len(missing) + len(self.owed_records - self.records)
        self.note("note", f"{left} are missing" if left else "all has arrived")
        for _, replay in self.replays:
            await replay.close()

    async def _settle(self) -> None:
        count, since_s = -1, time.monotonic()
        deadline_s = time.monotonic() + 5.0  # boards never stop sending
        while time.monotonic() - since_s < SETTLE_S and time.monotonic() < deadline_s:
            self._look()
            if self.looked_at != count:
                count, since_s = self.looked_at, time.monotonic()
            await asyncio.sleep(0.02)

    def _owed(self) -> Counter[Message]:
        owed: Counter[Message] = Counter()
        for traffic, replay in self.replays:
            if traffic.judged:
                owed.update(Message(item.topic, item.payload) for item in replay.items
                            if item.acked_ns)
        for will in self.wills():
            if will.least:
                owed[will.message] += will.least
        return owed

    def _look(self) -> None:
        arrivals = self.site.subscriber.arrivals
        for arrival in arrivals[self.looked_at :]:
            self.arrived[arrival.message] += 1
            if "/data/" in arrival.topic:
                name = record_of(arrival.payload)
                if name is not None:
                    self.records.add(name)
            self.looked_at += 1

    def wills(self) -> list[WillOwed]:
        """How often each will may arrive."""
        calm = not any(FAULTS[fault.do].breaks_devices
                       and not (fault.do.startswith("link.") and fault.link == "upstream")
                       for fault in self.site.scenario.faults)
        found = []
        for traffic, replay in self.replays:
            for actor in replay.actors.values() if traffic.judged else ():
                if actor.will is not None:
                    most = actor.vanished + actor.lost_connections
                    least = actor.vanished if calm else int(actor.client_id in self.vanished)
                    message = Message(actor.will.topic, actor.will.payload)
                    found.append(WillOwed(actor.client_id, message, least, most))
        return found

    async def _watch(self) -> None:
        """Sample the backlog, keep the clients alive, see whether the gateway ends by itself."""
        gone = False
        while True:
            for _, replay in self.replays:
                replay.tick()
            depth = await asyncio.to_thread(self.site.gateway.depth)
            if depth is not None:
                self.run.depth.append((self.now_s(), depth))
            down = not self.site.gateway.child.running and not self.site.gateway_meant_down
            if down and not gone:
                self.gateway_ended += 1
                last = self.site.gateway.child.tail(1)
                self.note("fault", f"the gateway ended by itself: {last}")
            gone = down
            await asyncio.sleep(DEPTH_EVERY_S)

    def evidence(self) -> Evidence:
        """Gather what was seen."""
        site = self.site
        items = [item for traffic, replay in self.replays if traffic.judged
                 for item in replay.items]
        for _, replay in self.replays:
            report = replay.sum_up()
            self.run.replays.append(report)
            if not report.valid:
                self.invalid.append(f"the replay was late: p99 {report.late['p99_ms']:g} ms, "
                                    f"{report.budget_ms:g} ms allowed")
        measured = {
            "connects": sum(actor.connects for _, replay in self.replays
                            for actor in replay.actors.values()),
            "upstream_connects": site.links["upstream"].counts.connections,
            "cuts": sum(link.counts.cuts for link in site.links.values()),
            "corrupted": sum(link.counts.corrupted for link in site.links.values()),
            "boots": sum(board.boots for board in site.boards),
            "most_backlog": max((depth for _, depth in self.run.depth), default=0),
            "gateway_ended": self.gateway_ended,
            "late_p99_ms": max((report.late.get("p99_ms", 0.0) for report in self.run.replays),
                               default=0.0),
        }
        return Evidence(
            self.run.began_ns, items, self._judged(), site.sights, site.scenario.gateway.upgrade,
            site.told(), self.owed_records, self.wills(), self.last_heal_ns, wall_offset_s(),
            self.invalid, measured, site.promises)

    def _judged(self) -> list[Arrival]:
        """Give the arrivals that count: what unjudged clients sent may be damaged, topic too."""
        arrivals = list(self.site.subscriber.arrivals)
        if all(traffic.judged for traffic, _ in self.replays):
            return arrivals
        topics = {item.topic for traffic, replay in self.replays if traffic.judged
                  for item in replay.items} | {will.message.topic for will in self.wills()}
        return [arrival for arrival in arrivals
                if arrival.topic in topics or arrival.topic.startswith("tidegate/")]

    def lanes(self) -> None:
        """Keep what the report draws."""
        began_ns = self.run.began_ns
        owner = {}
        for _, replay in self.replays:
            for item in replay.items:
                owner[item.topic] = item.client
                if item.sent_ns:
                    self.run.sent.append(((item.sent_ns - began_ns) / 1e9, item.client))
        for record, t_ns in self.site.told().items():
            self.run.sent.append(((t_ns - began_ns) / 1e9, record.device))
        for arrival in self.site.subscriber.arrivals:
            name = record_of(arrival.payload) if "/data/" in arrival.topic else None
            lane = name.device if name is not None else owner.get(arrival.topic)
            if lane is not None:
                self.run.arrived.append(((arrival.t_ns - began_ns) / 1e9, lane))


async def run_scenario(scenario: Scenario, folder: Path, bench: Bench, *, seconds: float = 0.0,
                       carrier: str = "tidegate", fault: str = "",
                       say: Say = lambda line: None,
                       on_arrival: Callable[[Arrival], None] | None = None) -> Run:
    """Run a scenario and judge it. seconds: its length [s], 0 for its own. fault, carrier,
    on_arrival: see Site. Raises NoBoardError, ChildError where it could not begin.
    """
    seconds = seconds or scenario.seconds
    run = Run(scenario, seconds, time.monotonic_ns())
    async with Site(scenario, folder, bench, seconds=seconds, carrier=carrier,
                    fault=fault, on_arrival=on_arrival) as site:
        runner = _Runner(site, run, say)
        await runner.play()
        run.judgement = judge(runner.evidence(), scenario.expectations)
        runner.lanes()
        run.logs = _logs(folder)
    run.troubles = site.troubles
    return run


def _logs(folder: Path, most: int = 200) -> dict[str, str]:
    """Return the last lines of each log, consoles included."""
    found = {}
    for path in sorted(folder.rglob("*.log")):
        lines: Sequence[str] = path.read_text(encoding="utf-8", errors="replace").splitlines()
        found[str(path.relative_to(folder))] = "\n".join(lines[-most:])
    return found
