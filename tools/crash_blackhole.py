"""A cable that is pulled for a while, on either side: nothing lost, and soon back.

    python -m tools.crash_blackhole --side up --seconds 9
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from tools.crash_judge import judge_site
from tools.crash_plan import quiet_round
from tools.crash_site import Site
from tools.crash_verdict import Tally
from tools.proxy_link import Fault

Side = Literal["up", "down"]
SIDES: tuple[Side, Side] = ("up", "down")
BACK_S = 15.0
"""How soon after its end all has to flow again, and how soon a dead link has to be noticed [s]."""


async def blackhole(side: Side, for_s: float, folder: Path) -> tuple[Tally, dict[str, float]]:
    """Pull the cable for for_s [s] under load; return the tally and what took how long [s].

    noticed_s: until the gateway gave the dead link up, where it did before the end.
    back_s: from the end until every device was acknowledged something and something of it arrived.
    """
    site = Site(quiet_round(), folder)
    told: dict[str, float] = {}
    try:
        await site.open()
        await site.start_gateway(None)
        await _flowing(site, "the first messages")
        began_s = time.monotonic()
        link = site.up if side == "up" else site.down
        dials = link.counts.connections
        link.set_fault(Fault(blackhole=True))
        noticed: Callable[[], bool] = (
            (lambda: link.counts.connections > dials) if side == "up" else
            (lambda: b"offline" in site.wire.status.values()))
        while time.monotonic() < began_s + for_s:
            await asyncio.sleep(0.05)
            if "noticed_s" not in told and noticed():
                told["noticed_s"] = time.monotonic() - began_s
        link.heal()
        healed_s = time.monotonic()
        await _flowing(site, "messages after the blackhole")
        told["back_s"] = time.monotonic() - healed_s
        return await judge_site(site), told
    finally:
        await site.close()


async def _flowing(site: Site, what: str) -> None:
    """Wait until every device has had an acknowledgement and every stream an arrival from now."""
    acknowledged = {device: device.acknowledged for device in site.devices}
    arrived = len(site.subscriber.arrivals)

    def flows() -> bool:
        streams = {arrival.key[0] for arrival in site.subscriber.arrivals[arrived:]}
        return len(streams) == len(acknowledged) and all(
            device.acknowledged > before for device, before in acknowledged.items())

    await site.until(flows, 4 * BACK_S, what)


def run(side: Side, for_s: float) -> dict[str, object]:
    """Run one blackhole; return the report."""
    with tempfile.TemporaryDirectory(prefix="tidegate-blackhole-") as name:
        tally, told = asyncio.run(blackhole(side, for_s, Path(name)))
    passed = tally.passed and told["back_s"] <= BACK_S and told.get("noticed_s", 0.0) <= BACK_S
    return {**tally.as_dict(), "passed": passed, "side": side, "seconds": for_s,
            **{name: round(value, 2) for name, value in told.items()}}


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--side", choices=SIDES, default="up")
    parser.add_argument("--seconds", type=float, default=9.0)
    args = parser.parse_args()
    report = run(args.side, args.seconds)
    print(json.dumps(report, indent=2))
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
