"""`make crash`: the gateway is killed a thousand times under load; an independent judge counts.

    python -m tools.crash --kills 1000 --seed 7

docs/crash.md says what is broken and how it is judged. Exit code 1 where anything that was
acknowledged is lost, doubled at QoS 2 or out of order; 2 where the run itself failed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tools.crash_mqtt import Publish, publish
from tools.crash_plan import Life, Round, make_plan
from tools.crash_site import Site
from tools.crash_verdict import Judge, Stream, Tally

IDLE_S = 20.0
"""How long [s] nothing may move at the end of a round before it is judged as it stands."""
LATE_S = 0.6


class Runner:
    """One round after another."""

    def __init__(self, rounds: list[Round], folder: Path, *, fault: str = "",
                 quiet: bool = False) -> None:
        self.rounds, self.folder, self.fault, self.quiet = rounds, folder, fault, quiet
        self.tally = Tally()
        self.kills = 0
        self._began_s = time.monotonic()

    async def run(self) -> Tally:
        """Run them all, or up to the first that fails."""
        for plan in self.rounds:
            folder = self.folder / f"round-{plan.number}"
            tally = await self._round(plan, folder)
            self.tally.add(tally)
            self._tell(plan, tally)
            if not tally.passed:
                break
            shutil.rmtree(folder)
        return self.tally

    def _tell(self, plan: Round, tally: Tally) -> None:
        if self.quiet:
            return
        passed_s = time.monotonic() - self._began_s
        print(f"round {plan.number}/{len(self.rounds)} upstream={plan.upstream:9} "
              f"kills={self.kills} {passed_s:.0f} s owed={self.tally.owed} "
              f"lost={self.tally.lost} duplicated={self.tally.duplicated} "
              f"reordered={self.tally.reordered} | upstream's own: "
              f"forgot={self.tally.forgotten_by_upstream} "
              f"doubled={self.tally.doubled_by_upstream}", flush=True)

    async def _round(self, plan: Round, folder: Path) -> Tally:
        folder.mkdir(parents=True)
        site = Site(plan, folder, fault=self.fault)
        try:
            await site.open()
            await self._lives(site, plan)
            return await self._judge(site)
        finally:
            await site.close()

    async def _lives(self, site: Site, plan: Round) -> None:
        loop = asyncio.get_running_loop()
        trouble: asyncio.Task[None] | None = None
        for life in plan.lives:
            await site.start_gateway(life)
            if trouble is not None:
                await trouble
            trouble = loop.create_task(site.trouble(life))
            await self._kill(site, life)
            await asyncio.sleep(life.dead_s)
        if trouble is not None:
            await trouble

    async def _kill(self, site: Site, life: Life) -> None:
        """Kill the gateway at the plan's moment."""
        loop = asyncio.get_running_loop()
        killed = asyncio.Event()
        left = life.kill_count

        def kill() -> None:
            if not killed.is_set():
                killed.set()
                site.kill_gateway()

        def on_kind(name: str) -> None:
            nonlocal left
            if name == life.kill_on:
                left -= 1
                if left == 0:
                    loop.call_soon(kill) if life.kill_late else kill()

        site.on_kind = on_kind
        timer = loop.call_later(life.kill_s + (LATE_S if life.kill_on else 0), kill)
        await killed.wait()
        timer.cancel()
        site.on_kind = lambda name: None
        await site.reap()
        self.kills += 1

    async def _judge(self, site: Site) -> Tally:
        """Let all of it arrive, then count."""
        site.heal()
        site.producing = False
        await site.start_gateway(None)
        devices, subscriber, wire = site.devices, site.subscriber, site.wire
        streams = {d.client_id: Stream(d.ledger, d.exact, d.min_qos) for d in devices}
        await site.until(lambda: all(d.unacknowledged == 0 for d in devices), IDLE_S,
                         "the acknowledgement of everything",
                         lambda: sum(d.acknowledged for d in devices))
        judge = Judge(streams, subscriber.arrivals, wire.exchanges, wire.order, subscriber.blind)
        missing = {key for d in devices for key, line in d.ledger.items() if line.owed}

        def complete() -> bool:
            missing.difference_update(subscriber.arrived)
            return wire.busy == 0 and all(judge.excused(key) for key in missing)

        await site.until(complete, IDLE_S, "the rest to arrive",
                         lambda: (len(subscriber.arrivals), sum(wire.counts.values())))
        wills = await self._wills(site)
        await self._sentinel(site)
        await site.stop_gateway()
        tally = judge.verdict()
        for will in wills:
            tally.blame("lost_wills", will)
        for text in [*site.complaints, *wire.complaints, *subscriber.strangers,
                     *(c for d in devices for c in d.complaints)]:
            tally.blame("other", text)
        return tally

    @staticmethod
    async def _wills(site: Site) -> list[str]:
        """Let one more device vanish; return what the upstream was not told of those that did."""
        last = site.mayflies.pop()
        await site.until(lambda: last.connects > 0, IDLE_S, "a device to connect")
        site.gone.append(last)
        last.vanish()
        expected = {device.status_topic: b"offline" for device in site.gone if device.connects}
        expected |= {device.status_topic: b"online" for device in site.mayflies}
        before = len(site.complaints)
        said = site.wire.status
        await site.until(lambda: all(said.get(t) == text for t, text in expected.items()), 10.0,
                         "the statuses")
        del site.complaints[before:]
        return [f"{topic} says {said.get(topic)!r}, not {text!r}"
                for topic, text in expected.items() if said.get(topic) != text]

    @staticmethod
    async def _sentinel(site: Site) -> None:
        """Wait until a message of our own came round: what the broker had for us came before."""
        mark = b"sentinel 1"
        site.subscriber.send(publish(Publish("crash/sentinel", mark, 1, False, False, 60_000)))
        key = ("sentinel", 0, 1)
        await site.until(lambda: key in site.subscriber.arrived, 10.0, "the sentinel")
        site.subscriber.arrivals[:] = [a for a in site.subscriber.arrivals if a.key != key]


def _report(runner: Runner, seed: int, kills: int) -> dict[str, object]:
    passed_s = time.monotonic() - runner._began_s
    return {"seed": seed, "kills_planned": kills, "kills": runner.kills,
            "seconds": round(passed_s, 1), **runner.tally.as_dict()}


def crash(kills: int, seed: int, *, fault: str = "", round_kills: int = 25,
          quiet: bool = True) -> dict[str, object]:
    """Run so many kills; return the report. The folder stays where it failed."""
    folder = Path(tempfile.mkdtemp(prefix="tidegate-crash-"))
    rounds = make_plan(kills, seed, round_kills=round_kills)
    runner = Runner(rounds, folder, fault=fault, quiet=quiet)
    try:
        import uvloop

        uvloop.run(runner.run())
    finally:
        report = _report(runner, seed, kills)
        if fault or runner.tally.passed or not runner.tally.owed:
            shutil.rmtree(folder, ignore_errors=True)
        else:
            report["folder"] = str(folder)
    return report


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=None, help="repeats the plan of a run")
    parser.add_argument("--fault", default="", help="see tools.faulty_gateway")
    parser.add_argument("--json", type=Path, help="write the report here")
    args = parser.parse_args()
    seed = args.seed if args.seed is not None else random.randrange(1 << 31)
    print(f"crash: {args.kills} kills, seed {seed} (--seed {seed} repeats this plan)", flush=True)
    report: dict[str, object] = {}
    with contextlib.suppress(KeyboardInterrupt):
        report = crash(args.kills, seed, fault=args.fault, quiet=False)
    if not report:
        print("crash: stopped", file=sys.stderr)
        return 130
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for name, value in report.items():
        if name != "offences":
            print(f"  {name:22} {value}")
    offences = report["offences"]
    assert isinstance(offences, list)
    for text in offences:
        print(f"  ! {text}")
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
