"""`make bench-ab OLD=<commit>`: two states of the project under the same load, in one run.

Each round measures both trees under each case, in shuffled order, so that what else the machine
does meets both; what counts is the ratio of a round's pair. "Within 3 %" is said of a case whose
ratio's median is at most 1.03, or where the two spreads overlap.
"""

from __future__ import annotations

import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import msgspec
from msgspec import Struct, field
from rich.console import Console
from rich.table import Table

from tools.bench import Case, measure
from tools.bench_core import CASES, ROOT, CoreError, path_of, run_case
from tools.contestants import Contestant, Tidegate

WITHIN = 1.03
WHOLE = [Case("200 waiting", 1, 1), Case("200 waiting", 1, 2), Case("one busy", 1, 2, 1, 100)]


class Pair(Struct):
    """A case and what each round gave: µs of CPU a message, in the old and the new tree."""

    name: str
    old: list[float] = field(default_factory=list)
    new: list[float] = field(default_factory=list)
    problem: str = ""

    def ratios(self) -> list[float]:
        """New to old, round by round."""
        return [new / old for old, new in zip(self.old, self.new, strict=False) if old]

    def verdict(self) -> str:
        """Whether the new tree is within 3 %, and how that was found."""
        if self.problem:
            return self.problem
        if not self.ratios():
            return "not measured"
        if statistics.median(self.ratios()) <= WITHIN:
            return "within 3 %"
        if min(self.new) <= max(self.old):
            return "spreads overlap"
        return "SLOWER"


class ABError(Exception):
    """It could not be measured; the text says why."""


def contestant(tree: Path) -> type[Contestant]:
    """The gateway of a checkout, to be measured as a whole process."""
    return type("Tree", (Tidegate,), {"path": path_of(tree)})


@contextmanager
def checkout(commit: str) -> Iterator[Path]:
    """A work tree of a commit, removed at the end. Raises ABError where git has no such commit."""
    with tempfile.TemporaryDirectory(prefix="tidegate-ab-") as name:
        tree = Path(name) / "tree"
        done = subprocess.run(["git", "-C", str(ROOT), "worktree", "add", "--detach", str(tree),
                               commit], capture_output=True, text=True, check=False)
        if done.returncode:
            raise ABError(f"OLD={commit}: {done.stderr.strip().splitlines()[-1]}")
        try:
            yield tree
        finally:
            subprocess.run(["git", "-C", str(ROOT), "worktree", "remove", "--force", str(tree)],
                           capture_output=True, check=False)


def _jobs(seconds: float, parts: tuple[str, ...]) -> dict[str, Callable[[Path], float]]:
    """By name: how to measure a tree [µs of CPU a message]."""
    jobs: dict[str, Callable[[Path], float]] = {}
    for core in CASES:
        jobs[f"core, {core.name}"] = lambda tree, case=core: run_case(case, tree)  # type: ignore[misc]
    for whole in WHOLE:
        def run(tree: Path, case: Case = whole) -> float:
            row = measure(contestant(tree), case, seconds)
            if row.problem:
                raise ABError(row.problem)
            return row.cpu_us
        jobs[f"whole, {whole.name}, QoS {whole.into} to {whole.out}"] = run
    jobs = {name: job for name, job in jobs.items()
            if not parts or any(part in name for part in parts)}
    if not jobs:
        raise click.UsageError(f"no case has {' or '.join(map(repr, parts))} in its name")
    return jobs


def _spread(values: list[float]) -> str:
    return f"{min(values):.2f} to {max(values):.2f}"


def table(pairs: list[Pair], old: str) -> Table:
    """What was measured, for people."""
    shown = Table(title=f"µs of CPU a message: {old} and this tree")
    for head in ("case", "old", "spread", "new", "spread", "new / old", "spread", "rounds", ""):
        shown.add_column(head, justify="left" if head in ("case", "") else "right")
    for pair in pairs:
        ratios = pair.ratios()
        cells = ["-"] * 6 if not ratios else [
            f"{statistics.median(pair.old):.2f}", _spread(pair.old),
            f"{statistics.median(pair.new):.2f}", _spread(pair.new),
            f"{statistics.median(ratios):.3f}", _spread(ratios)]
        shown.add_row(pair.name, *cells, str(len(ratios)), pair.verdict())
    return shown


def run_rounds(jobs: dict[str, Callable[[Path], float]], trees: tuple[Path, Path], rounds: int,
               pairs: dict[str, Pair], tell: Callable[[str], None]) -> None:
    """Measure; what was measured is in `pairs`, also where it is broken off."""
    began_s, total = time.monotonic(), rounds * len(jobs) * 2
    done = 0
    for turn in range(rounds):
        names = list(jobs)
        random.shuffle(names)
        for name in names:
            pair, found = pairs[name], {}
            for which in random.sample((0, 1), 2):
                left_s = (time.monotonic() - began_s) / done * (total - done) if done else 0.0
                tell(f"round {turn + 1} of {rounds}: {name}, {('old', 'new')[which]}"
                     + (f", about {left_s / 60:.0f} min left" if done else ""))
                done += 1
                if pair.problem:
                    continue
                try:
                    found[which] = jobs[name](trees[which])
                except (CoreError, ABError) as error:
                    pair.problem = f"FAILED, {('old', 'new')[which]}: {error}"
            if len(found) == 2:
                pair.old.append(found[0])
                pair.new.append(found[1])


@click.command()
@click.argument("old")
@click.option("--rounds", default=7, show_default=True, type=click.IntRange(1, 1000))
@click.option("--seconds", default=2.0, show_default=True, help="Of load on a whole process [s].")
@click.option("--case", "parts", multiple=True, help="Cases whose name has this (repeatable).")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write the rows here.")
def bench_ab(old: str, rounds: int, seconds: float, parts: tuple[str, ...],
             json_file: Path | None) -> None:
    """Compare this tree with that of the commit OLD, in turn, under the same load."""
    say = Console(stderr=True, highlight=False, markup=False)
    jobs = _jobs(seconds, parts)
    pairs = {name: Pair(name) for name in jobs}
    try:
        with checkout(old) as tree:
            run_rounds(jobs, (tree, ROOT), rounds, pairs, say.print)
    except ABError as error:
        raise click.ClickException(str(error)) from error
    except KeyboardInterrupt:
        say.print("broken off; what there is:")
    rows = list(pairs.values())
    Console(width=None if sys.stdout.isatty() else 150).print(table(rows, old))
    if json_file is not None:
        json_file.write_text(json.dumps(msgspec.to_builtins(rows), indent=1))
    if any(row.problem for row in rows):
        raise SystemExit(1)


if __name__ == "__main__":
    bench_ab()
