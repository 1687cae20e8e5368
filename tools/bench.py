"""The bench: the same load through the gateway and through its peers, on this machine, in one run.

Every row: throughput, latency from send to arrival at the upstream's subscriber, CPU a message in
the contestant's own processes, peak memory, bytes written per payload byte. It measures and
asserts nothing; ratios within one run are what counts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import msgspec
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from tools.contestants import CONTESTANTS, Contestant
from tools.load import Plan, Result
from tools.mosquitto import Mosquitto
from tools.procs import ChildError

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


class Case(Struct):
    """One load. into, out: QoS from the devices and to the upstream."""

    name: str
    into: int
    out: int
    connections: int = 200
    window: int = 1
    rate_per_s: float = 0
    payload_bytes: int = 80


CASES = [
    Case("200 waiting", 1, 1), Case("200 waiting", 1, 2), Case("200 waiting", 0, 1),
    Case("one busy", 1, 1, 1, 100), Case("one busy", 1, 2, 1, 100), Case("one busy", 0, 1, 1),
    Case("500/s", 1, 2, rate_per_s=500), Case("500/s", 1, 1, rate_per_s=500),
    Case("50/s of 200 B", 1, 2, rate_per_s=50, payload_bytes=200),
    Case("50/s of 200 B", 1, 1, rate_per_s=50, payload_bytes=200),
]


class Row(Struct):
    """One contestant under one load."""

    contestant: str
    case: Case
    result: Result | None
    problem: str = ""
    cpu_us: float = 0.0
    peak_mb: float = 0.0
    written_per_byte: float = 0.0
    rates: list[int] = []  # delivered/s of each round, where there was more than one


def _cpu_s(pids: list[int]) -> float:
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total * _TICK_S


def _sum(pids: list[int], file: str, key: str) -> int:
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
            if line.startswith(key):
                total += int(line.split()[1])
    return total


def _load(plan: Plan) -> Result:
    done = subprocess.run([sys.executable, "-m", "tools.load"], input=msgspec.json.encode(plan),
                          capture_output=True, timeout=plan.seconds + 120, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr.decode().strip().splitlines()[-1])
    return msgspec.json.decode(done.stdout, type=Result)


def measure(kind: type[Contestant], case: Case, seconds: float) -> Row:
    """Run one contestant under one load."""
    row = Row(kind.name, case, None)
    try:
        _measure(row, kind, case, seconds)
    except (RuntimeError, subprocess.TimeoutExpired, OSError, ChildError) as error:
        row.problem = f"FAILED: {error}"
    return row


def _measure(row: Row, kind: type[Contestant], case: Case, seconds: float) -> None:
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as name:
        folder = Path(name)
        with Mosquitto(folder / "upstream", persistence=False) as upstream, \
                kind(folder / "contestant", upstream.port, case.out) as contestant:
            pids = contestant.pids()
            warm = Plan(contestant.port, upstream.port, case.connections, case.into, case.window,
                        1.0, case.rate_per_s, case.payload_bytes, f"warm{case.into}",
                        f"warm{case.into}", settle_s=5)
            _load(warm)
            cpu_s, written = _cpu_s(pids), _sum(pids, "io", "write_bytes")
            plan = Plan(contestant.port, upstream.port, case.connections, case.into,
                        case.window, seconds, case.rate_per_s, case.payload_bytes, settle_s=8)
            row.result = result = _load(plan)
            os.sync()
            delivered = max(1, result.delivered)
            row.cpu_us = (_cpu_s(pids) - cpu_s) * 1e6 / delivered
            row.peak_mb = _sum(pids, "status", "VmHWM") / 1024
            row.written_per_byte = (_sum(pids, "io", "write_bytes") - written) / (
                delivered * case.payload_bytes)
            if result.wedged:
                row.problem = f"WEDGED: {result.sent - result.delivered} never came"


def median(rows: list[Row]) -> Row:
    """The row in the middle by what was delivered; one with a problem, where there is one."""
    for row in rows:
        if row.problem or row.result is None:
            return row
    rows = sorted(rows, key=lambda row: row.result.delivered_per_s if row.result else 0.0)
    middle = rows[len(rows) // 2]
    middle.rates = [round(row.result.delivered_per_s) for row in rows if row.result]
    return middle


def generator_limit(seconds: float) -> Result:
    """What the load generator does against a bare Mosquitto: it must be faster than what it
    measures."""
    with tempfile.TemporaryDirectory(prefix="tidegate-bench-") as name, \
            Mosquitto(Path(name), persistence=False) as broker:
        return _load(Plan(broker.port, broker.port, seconds=seconds))


def table(rows: list[Row], limit: Result) -> Table:
    """The rows for people."""
    shown = Table(title="messages from 200 connections or one, through each bridge",
                  caption=f"load generator alone, straight into one Mosquitto: "
                          f"{limit.sent_per_s:,.0f}/s at {limit.cpu_share:.0%} of a core")
    for head in ("load", "QoS", "bridge", "delivered/s", "p50 ms", "p99 ms", "CPU µs", "peak MB",
                 "written/B", ""):
        shown.add_column(head, justify="left" if head in ("load", "bridge", "") else "right")
    last = ""
    for row in rows:
        case = f"{row.case.name}|{row.case.into}→{row.case.out}"
        if case != last and last:
            shown.add_section()
        name, qos = case.split("|") if case != last else ("", "")
        last, r = case, row.result
        cells = ["-"] * 6 if r is None else [
            f"{r.delivered_per_s:,.0f}", f"{r.p50_ms:.1f}", f"{r.p99_ms:.1f}",
            f"{row.cpu_us:.1f}", f"{row.peak_mb:.0f}", f"{row.written_per_byte:.1f}"]
        shown.add_row(name, qos, row.contestant, *cells, row.problem)
    return shown


@click.command()
@click.option("--seconds", default=3.0, show_default=True, help="Length of each measurement [s].")
@click.option("--rounds", default=3, show_default=True,
              help="How often each is measured, in turn; the middle one is shown.")
@click.option("--only", multiple=True, help="A contestant to run (repeatable).",
              type=click.Choice(sorted(CONTESTANTS)))
@click.option("--case", "cases", multiple=True, help="Loads whose name has this (repeatable).")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the rows here.")
def bench(seconds: float, rounds: int, only: tuple[str, ...], cases: tuple[str, ...],
          json_file: Path | None) -> None:
    """Measure the gateway against Mosquitto's bridge and the obvious paho bridge."""
    console = Console(stderr=True)
    wanted = [case for case in CASES if not cases or any(
        part in f"{case.name} {case.into}-{case.out}" for part in cases)]
    kinds = [CONTESTANTS[name] for name in only] or list(CONTESTANTS.values())
    limit = generator_limit(min(seconds, 3.0))
    rows: list[Row] = []
    for number, case in enumerate(wanted, 1):
        found: dict[str, list[Row]] = {}
        for turn in range(rounds):
            for kind in kinds:
                earlier = found.setdefault(kind.name, [])
                if any(row.problem for row in earlier):
                    continue
                console.print(f"[{number}/{len(wanted)}] {case.name} QoS {case.into}→{case.out} "
                              f"round {turn + 1} {kind.name} …", highlight=False, markup=False)
                earlier.append(measure(kind, case, seconds))
        rows += map(median, found.values())
    Console(width=None if sys.stdout.isatty() else 130).print(table(rows, limit))
    if json_file is not None:
        out: dict[str, Any] = {"generator": msgspec.to_builtins(limit),
                               "rows": msgspec.to_builtins(rows)}
        json_file.write_text(json.dumps(out, indent=1))


if __name__ == "__main__":
    bench()
