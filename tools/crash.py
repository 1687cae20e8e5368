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

from tools.crash_judge import judge_site
from tools.crash_plan import Life, Round, make_plan
from tools.crash_site import Site
from tools.crash_verdict import Tally

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
            return await judge_site(site)
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
