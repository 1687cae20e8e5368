"""`make crash`: the gateway is killed a thousand times under load; an independent judge counts.

    python -m tools.crash --kills 1000 --seed 7

docs/crash.md says what is broken and how it is judged. Exit code 1 where anything that was
acknowledged is lost, doubled at QoS 2 or out of order; 2 where the run itself failed.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import uvloop

from tools.crash_blackhole import SIDES
from tools.crash_blackhole import run as blackhole
from tools.crash_full import FullError
from tools.crash_full import run as full_disk
from tools.crash_judge import IDLE_S, judge_site
from tools.crash_plan import KINDS, ROUND_KILLS, Broker, Life, Protocol, Round, make_plan
from tools.crash_power import PowerError, power_cuts
from tools.crash_site import Site
from tools.crash_verdict import AfterLostSession, Tally
from tools.ports import PortError
from tools.procs import ChildError

LATE_S = 0.6
"""How much later [s] than its time a kill comes whose packet does not."""
POWER_POINTS = 300


class Runner:
    """One round after another."""

    def __init__(self, rounds: list[Round], folder: Path, *, fault: str = "",
                 quiet: bool = False, idle_s: float = IDLE_S,
                 after_lost_session: AfterLostSession = "resend",
                 checkout: Path | None = None) -> None:
        self.rounds, self.folder, self.fault, self.quiet = rounds, folder, fault, quiet
        self._after_lost_session: AfterLostSession = after_lost_session
        self._checkout = checkout
        self._idle_s = idle_s
        self.tally = Tally()
        self.kills = 0
        self.began_s = time.monotonic()

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
        passed_s = time.monotonic() - self.began_s
        total = self.tally
        print(f"round {plan.number}/{len(self.rounds)} {plan.broker} {plan.protocol} "
              f"{plan.upstream:9} kills={self.kills} {passed_s:.0f} s owed={total.owed} "
              f"lost={total.lost} duplicated={total.duplicated} reordered={total.reordered} "
              f"falsely refused={total.falsely_refused} | after a lost session: "
              f"doubled={total.after_lost_session_doubled} lost={total.after_lost_session_lost} | "
              f"upstream's own: forgot={total.forgotten_by_upstream} "
              f"doubled={total.doubled_by_upstream}", flush=True)

    async def _round(self, plan: Round, folder: Path) -> Tally:
        folder.mkdir(parents=True)
        site = Site(plan, folder, fault=self.fault,
                    after_lost_session=self._after_lost_session, checkout=self._checkout)
        try:
            await site.open()
            await self._lives(site, plan)
            return await judge_site(site, self._idle_s)
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
                site.kill_gateway(polite_s=life.polite_s)

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
        await site.reap(life.polite_s)
        self.kills += 1


def crash(kills: int, seed: int, *, fault: str = "", round_kills: int = ROUND_KILLS,
          quiet: bool = True, idle_s: float = IDLE_S, broker: Broker = "mosquitto",
          protocol: Protocol | None = None,
          after_lost_session: AfterLostSession = "resend",
          checkout: Path | None = None) -> dict[str, object]:
    """Run so many kills; return the report. The folder stays where it failed.

    fault: one of tools.faulty_gateway, to see the judge fail. idle_s: how long [s] nothing may
    move at the end of a round before it is judged as it stands. protocol: in every round, instead
    of what the seed draws. after_lost_session: what the gateway is told, and judged by.
    checkout: whose gateway is run, to compare; None for this one.
    """
    folder = Path(tempfile.mkdtemp(prefix="tidegate-crash-"))
    rounds = make_plan(kills, seed, round_kills=round_kills, broker=broker, protocol=protocol)
    runner = Runner(rounds, folder, fault=fault, quiet=quiet, idle_s=idle_s,
                    after_lost_session=after_lost_session, checkout=checkout)
    keep = False
    try:
        uvloop.run(runner.run())
        keep = not fault and not runner.tally.passed
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    report = {"seed": seed, "upstream": broker, "protocol": protocol or "drawn",
              "kills_planned": kills, "kills": runner.kills,
              "seconds": round(time.monotonic() - runner.began_s, 1), **runner.tally.as_dict()}
    return report | {"folder": str(folder)} if keep else report


def everything(args: argparse.Namespace, seed: int) -> dict[str, object]:
    """The kills; with Mosquitto then blackholes on either side, full disks and power cuts."""
    report = crash(args.kills, seed, fault=args.fault, quiet=False, broker=args.upstream,
                   protocol=args.protocol, after_lost_session=args.after_lost_session,
                   checkout=args.checkout)
    if args.fault or args.upstream != "mosquitto":
        return report
    holes = []
    for side in SIDES:
        for seconds in (9.0, 16.0):
            hole = blackhole(side, seconds)
            holes.append(hole)
            told = {name: hole.get(name) for name in ("passed", "lost", "back_s", "noticed_s")}
            print(f"blackhole {side:4} {seconds:.0f} s: {json.dumps(told)}", flush=True)
    full = _where_possible("full disk", full_disk)
    cuts = _where_possible("power cuts", lambda: power_cuts(POWER_POINTS, seed).as_dict())
    parts = [report, *holes, full, cuts]
    return {**report, "blackholes": holes, "full_disk": full, "power_cuts": cuts,
            "passed": all(part["passed"] is not False for part in parts)}


def _where_possible(name: str, job: Callable[[], dict[str, object]]) -> dict[str, object]:
    """Run what needs ptrace or a mount; where the machine forbids that, say so: it is neither
    passed nor failed."""
    try:
        result = job()
    except (PowerError, FullError) as error:
        result = {"passed": None, "why": str(error)}
    print(f"{name}: {json.dumps(result)}", flush=True)
    return result


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--kills", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=None, help="repeats the plan of a run")
    parser.add_argument("--upstream", choices=list(KINDS), default="mosquitto")
    parser.add_argument("--protocol", choices=["3.1.1", "5"], default=None,
                        help="in every round; without it as the seed draws it")
    parser.add_argument("--after-lost-session", choices=["resend", "drop"], default="resend")
    parser.add_argument("--checkout", type=lambda name: Path(name).resolve(),
                        help="run the gateway of this checkout instead, to compare")
    parser.add_argument("--fault", default="", help="see tools.faulty_gateway")
    parser.add_argument("--json", type=Path, help="write the report here")
    args = parser.parse_args()
    seed = args.seed if args.seed is not None else random.randrange(1 << 31)
    print(f"crash: {args.upstream}, {args.kills} kills, seed {seed} (--seed {seed} repeats this "
          "plan)", flush=True)
    try:
        report = everything(args, seed)
    except KeyboardInterrupt:
        print("crash: stopped", file=sys.stderr)
        return 130
    except (ChildError, PortError) as error:
        print(f"crash: the run itself failed: {error}", file=sys.stderr)
        return 2
    if args.json:
        args.json.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for name, value in report.items():
        if not isinstance(value, (list, dict)):
            print(f"  {name:22} {value}")
    offences = report["offences"]
    assert isinstance(offences, list)
    if offences:
        print(f"seed {seed} failed at kill {report['kills']}; each offence:")
    for text in offences:
        print(f"  ! {text}")
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
