"""A disk that is full: without its upstream the gateway acknowledges nothing, dies, starts again,
and loses nothing; with it, it goes on, though the disk is as full as before.

    python -m tools.crash_full

The outbox lies on a small file system in memory, in a mount namespace of our own (util-linux's
unshare; root or unprivileged user namespaces), which goes with the process.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tools.crash_judge import judge_site
from tools.crash_plan import quiet_round
from tools.crash_site import Site
from tools.crash_verdict import Tally
from tools.procs import die_with_us

SIZE = "8m"
TIMES = 6
NO_NAMESPACE = 3
LIMIT_S = 300
SILENT_S = 30


class FullError(Exception):
    """There can be no small disk on this machine; nothing follows from that."""


async def full_disk(folder: Path, disk: Path, times: int) -> tuple[Tally, int]:
    """Fill `disk` so many times under load, every second time with a kill; return the tally and
    how often nothing was acknowledged while it was full."""
    site = Site(quiet_round(), folder, outbox=disk / "outbox.db")
    silent = 0
    try:
        await site.open()
        await site.start_gateway(None)
        for number in range(times):
            await _acknowledged(site, 200, "with room on the disk")
            site.up.refuse()
            site.up.cut()
            _fill(disk)
            quiet = await _silent(site)
            if number % 2:
                site.kill_gateway()
                await site.reap()
                await site.start_gateway(None)
                quiet &= await _silent(site)
            silent += quiet
            site.up.refuse(False)
            await _acknowledged(site, 200, "on a full disk that drains")
            (disk / "ballast").unlink()
        return await judge_site(site), silent
    finally:
        await site.close()


def _fill(disk: Path) -> None:
    """Write until the disk says that it is full."""
    with (disk / "ballast").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1024))
        except OSError:
            return


async def _silent(site: Site) -> bool:
    """Wait until nothing has been acknowledged for a second: the journal has an end."""
    before, deadline_s = -1, time.monotonic() + SILENT_S
    while before != (now := sum(device.acknowledged for device in site.devices)):
        if time.monotonic() > deadline_s:
            return False
        before = now
        await asyncio.sleep(1.0)
    return True


async def _acknowledged(site: Site, count: int, when: str) -> None:
    goal = sum(device.acknowledged for device in site.devices) + count
    await site.until(lambda: sum(device.acknowledged for device in site.devices) >= goal, 40.0,
                     f"acknowledgements {when}")


def _inside(times: int) -> int:
    """In the namespace: mount, run, print."""
    with tempfile.TemporaryDirectory(prefix="tidegate-full-") as name:
        disk = Path(name) / "disk"
        disk.mkdir()
        mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs",
                                  str(disk)], capture_output=True, check=False)
        if mounted.returncode:
            return NO_NAMESPACE
        try:
            tally, silent = asyncio.run(full_disk(Path(name), disk, times))
        finally:
            subprocess.run(["umount", "-l", str(disk)], check=False)
    print(json.dumps({**tally.as_dict(), "passed": tally.passed and silent > 0,
                      "times_full": times, "times_silent": silent}))
    return 0


def run(times: int = TIMES) -> dict[str, object]:
    """Run it in a namespace of its own; return the report. Raises FullError."""
    own = ["--mount"] if os.geteuid() == 0 else ["--mount", "--map-root-user"]
    argv = ["unshare", *own, "--", sys.executable, "-m", "tools.crash_full", "--inside",
            "--times", str(times)]
    try:
        done = subprocess.run(die_with_us(argv), capture_output=True, text=True, check=False,
                              timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        return {"passed": False, "why": f"no end within {LIMIT_S} s"}
    except OSError as error:
        raise FullError(f"no unshare: {error}") from error
    if done.returncode == NO_NAMESPACE or done.stderr.startswith("unshare:"):
        raise FullError(f"no small disk of our own: {done.stderr.strip()[-200:]}")
    if not done.stdout:
        return {"passed": False, "why": done.stderr.strip()[-400:]}
    report = json.loads(done.stdout)
    assert isinstance(report, dict)
    return report


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--times", type=int, default=TIMES)
    args = parser.parse_args()
    if args.inside:
        return _inside(args.times)
    report = run(args.times)
    print(json.dumps(report, indent=2))
    return 0 if report["passed"] else 1


if __name__ == "__main__":
    sys.exit(main())
