"""`make bench-core`: µs of CPU a message on the gateway's path in one process, without sockets.

What is left out: `recv` and `send`, uvloop's part in them, and the disk (the outbox lies in
memory). So it shows what our own code costs, and a change of a few per cent.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

import click
import msgspec
from msgspec import Struct
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = Path(__file__).with_name("bench_core_run.py")
TIMEOUT_S = 120


class CoreCase(Struct, frozen=True):
    """One load. kind: see bench_core_run.py. messages: to be sent; of a batch, ten records."""

    name: str
    kind: str
    into: int
    out: int
    messages: int
    unit: str = "message"


CASES = [
    CoreCase("QoS 0 to 1", "plain", 0, 1, 30_000), CoreCase("QoS 1 to 1", "plain", 1, 1, 30_000),
    CoreCase("QoS 1 to 2", "plain", 1, 2, 30_000), CoreCase("QoS 2 to 2", "plain", 2, 2, 20_000),
    CoreCase("contract batches", "batches", 0, 2, 2_000, "batch of 10"),
    CoreCase("fan-out to 50", "fan-out", 0, 1, 3_000, "copy"),
]


class CoreError(Exception):
    """The case could not be run; the text is its last line."""


def path_of(tree: Path) -> Path:
    """The folder of a checkout that the gateway is imported from."""
    return tree / "gateway" if (tree / "gateway" / "tidegate").is_dir() else tree


def run_case(case: CoreCase, tree: Path = ROOT, *, profile: bool = False) -> float:
    """µs of CPU a unit of the case on a checkout. Raises CoreError."""
    argv = [sys.executable, str(PROGRAM), case.kind, str(case.into), str(case.out),
            str(case.messages), *(["--profile"] if profile else [])]
    try:
        done = subprocess.run(
            argv, capture_output=not profile, stdout=subprocess.PIPE if profile else None,
            text=True, timeout=TIMEOUT_S, check=False, cwd=tree,
            env={**os.environ, "PYTHONPATH": str(path_of(tree))})
    except subprocess.TimeoutExpired:
        raise CoreError(f"no result within {TIMEOUT_S} s") from None
    if done.returncode:
        raise CoreError(((done.stderr or "").strip() or f"exit {done.returncode}")
                        .splitlines()[-1])
    return float(json.loads(done.stdout)["cpu_us"])


def chosen(parts: tuple[str, ...]) -> list[CoreCase]:
    """The cases whose name has one of the parts, all where none is given. Raises UsageError."""
    found = [case for case in CASES if not parts or any(part in case.name for part in parts)]
    if not found:
        raise click.UsageError(f"no case has {' or '.join(map(repr, parts))} in its name; there "
                               f"are: {', '.join(case.name for case in CASES)}")
    return found


def table(rows: dict[CoreCase, list[float]]) -> Table:
    """What was measured, for people."""
    shown = Table(title="CPU on the gateway's path, in one process, without sockets and disk")
    for head in ("case", "µs a", "median", "lowest", "highest", "rounds"):
        shown.add_column(head, justify="left" if head in ("case", "µs a") else "right")
    for case, values in rows.items():
        if values:
            shown.add_row(case.name, case.unit, f"{statistics.median(values):.2f}",
                          f"{min(values):.2f}", f"{max(values):.2f}", str(len(values)))
    return shown


@click.command()
@click.option("--rounds", default=5, show_default=True, type=click.IntRange(1, 1000),
              help="How often each case is run, in turn.")
@click.option("--case", "parts", multiple=True, help="Cases whose name has this (repeatable).")
@click.option("--profile", is_flag=True, help="Run each case once under cProfile, and print it.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
def bench_core(rounds: int, parts: tuple[str, ...], profile: bool, as_json: bool) -> None:
    """Measure what a message costs the gateway's own code [µs of CPU]."""
    cases = chosen(parts)
    say = Console(stderr=True, highlight=False, markup=False)
    rows: dict[CoreCase, list[float]] = {case: [] for case in cases}
    try:
        for turn in range(1 if profile else rounds):
            for case in cases:
                say.print(f"round {turn + 1} of {1 if profile else rounds}: {case.name}")
                rows[case].append(run_case(case, profile=profile))
    except CoreError as error:
        raise click.ClickException(f"{case.name}: {error}") from error
    except KeyboardInterrupt:
        say.print("broken off; what there is:")
    if as_json:
        click.echo(json.dumps([{**msgspec.to_builtins(case), "cpu_us": values}
                               for case, values in rows.items()], indent=1))
        return
    Console(width=None if sys.stdout.isatty() else 110).print(table(rows))


if __name__ == "__main__":
    bench_core()
