"""`tidegate hil run` and `tidegate hil boards`."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
import tempfile
from pathlib import Path

import click
from rich.console import Console

from tools.board_errors import LinkError
from tools.debian import FetchError
from tools.faulty_gateway import FAULTS
from tools.hil import loan, report
from tools.hil.bench import NEEDED, Bench, BenchError, NoBoardError, plugged_in
from tools.hil.outcome import Run
from tools.hil.recording import RecordingError
from tools.hil.run import run_scenario
from tools.hil.scenario import Scenario, ScenarioError, load, names
from tools.judge import JudgeError
from tools.ports import PortError
from tools.procs import ChildError
from tools.writable import make_folder, reason

INVALID = 3
BROKEN = (ChildError, PortError, JudgeError, FetchError, NoBoardError, RecordingError)


def load_bench(path: Path | None) -> Bench:
    """Return the bench of a hil.toml, a virtual one where none is named."""
    return Bench.virtual() if path is None else Bench.load(path)


def exit_code(runs: list[Run]) -> int:
    """Return 0 where all passed, 3 where one was INVALID, else 1."""
    outcomes = {run.verdict.outcome for run in runs}
    return INVALID if "INVALID" in outcomes else 1 if "FAIL" in outcomes else 0


def _warn(bench: Bench) -> None:
    """Say what cannot work."""
    if bench.unreachable:
        click.echo(f"hil: {', '.join(bench.unreachable)}: no real board reaches {bench.host}; "
                   "name this machine's address in hil.toml: host = \"192.0.2.10\"", err=True)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


@click.command()
@click.argument("scenarios", nargs=-1, type=click.Path(path_type=Path))
@click.option("--seconds", type=click.FloatRange(min=2),
              help="Shorten or stretch each scenario to this length [s].")
@click.option("--hil", "hil_toml", type=click.Path(path_type=Path),
              help="The boards of the bench; virtual ones where none is named.")
@click.option("--carrier", type=click.Choice(["tidegate", "mosquitto"]), default="tidegate",
              show_default=True, help="What carries the messages; mosquitto: its own bridge.")
@click.option("--fault", type=click.Choice(sorted(FAULTS)),
              help="Plant a fault in the gateway, to see that the bench finds it.")
@click.option("--report", "folder", type=click.Path(path_type=Path),
              help="Write report.html, junit.xml and the logs into this folder.")
@click.option("-q", "--quiet", is_flag=True, help="Print only the table.")
def run(scenarios: tuple[Path, ...], seconds: float | None, hil_toml: Path | None, carrier: str,
        fault: str | None, folder: Path | None, quiet: bool) -> None:
    """Run scenarios (files, or names of ours; all of ours where none is named) and judge them.

    Exit code 0: all PASS; 1: a FAIL; 2: a scenario could not run; 3: one was INVALID.
    """
    console = Console()
    if folder is not None:
        _make_report_folder(folder)
    signal.signal(signal.SIGTERM, _interrupt)
    runs: list[Run] = []
    skipped = 0
    work = Path(tempfile.mkdtemp(prefix="tidegate-hil-"))
    code = 2
    try:
        bench = load_bench(hil_toml)
        loaded = [load(path) for path in scenarios or map(Path, names())]
        _warn(bench)
        for scenario in loaded:
            try:
                runs.append(_one(scenario, work, bench, seconds or 0.0, carrier, fault or "",
                                 None if quiet else console))
            except NoBoardError as error:
                skipped += 1
                click.echo(f"hil: {scenario.name} did not run: {error}", err=True)
                continue
            for trouble in runs[-1].troubles:
                click.echo(f"hil: {trouble}", err=True)
        code = 2 if skipped else exit_code(runs)
    except (ScenarioError, BenchError, *BROKEN) as error:
        click.echo(f"hil: error: {error}", err=True)
    except KeyboardInterrupt:
        click.echo("hil: stopped; nothing was judged", err=True)
        code = 130
    if runs:
        report.to_terminal(runs, console)
    if folder is not None and runs:
        try:
            _write_report(runs, folder, work, console)
        except OSError as error:
            click.echo(f"hil: error: no report: {folder}: {reason(error)}", err=True)
            code = code or 2
    shutil.rmtree(work, ignore_errors=True)
    sys.exit(code)


def _make_report_folder(folder: Path) -> None:
    """Find out before the run, not after it, whether its report can be written."""
    try:
        make_folder(folder)
    except OSError as error:
        click.echo(f"hil: error: --report {folder}: {reason(error)}", err=True)
        sys.exit(2)


def _write_report(runs: list[Run], folder: Path, work: Path, console: Console) -> None:
    page, xml = report.write(runs, folder)
    for path in sorted(work.rglob("*.log")):
        target = folder / "logs" / path.relative_to(work)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
    console.print(f"report: {page}, {xml}", highlight=False, soft_wrap=True)


def _one(scenario: Scenario, work: Path, bench: Bench, seconds: float, carrier: str, fault: str,
         console: Console | None) -> Run:
    def say(line: str) -> None:
        if console is not None:
            console.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)

    if console is not None:
        console.print(f"[bold]{scenario.name}[/]: {scenario.title}", highlight=False,
                      soft_wrap=True)
    folder = work / scenario.name
    folder.mkdir()
    return asyncio.run(run_scenario(scenario, folder, bench, seconds=seconds, carrier=carrier,
                                    fault=fault, say=say))


@click.command()
@click.option("--hil", "hil_toml", type=click.Path(path_type=Path))
def boards(hil_toml: Path | None) -> None:
    """List what is plugged in, and the boards of a hil.toml with what they can."""
    for port, serial_number, fits in plugged_in():
        click.echo(f"plugged in: {port} serial={serial_number or '?'} fits: {fits or '?'}")
    try:
        bench = load_bench(hil_toml)
    except BenchError as error:
        click.echo(f"hil: error: {error}", err=True)
        sys.exit(2)
    for entry in bench.entries:
        state = "virtual" if entry.virtual else entry.find_port() or "not plugged in"
        click.echo(f"{entry.name}: {entry.kind}, {state}; {', '.join(sorted(entry.has))}")


@click.command()
@click.argument("hil_toml", type=click.Path(path_type=Path), required=False)
def check(hil_toml: Path | None) -> None:
    """Say whether a hil.toml can be used, or what a bench needs; exit code 2 where not."""
    if hil_toml is None or not str(hil_toml).strip("."):
        click.echo(NEEDED, err=True)
        for port, serial_number, fits in plugged_in():
            click.echo(f"plugged in: {port} serial={serial_number or '?'} fits: {fits or '?'}",
                       err=True)
        sys.exit(2)
    try:
        bench = Bench.load(hil_toml)
    except BenchError as error:
        click.echo(f"hil: error: {error}", err=True)
        sys.exit(2)
    missing = [entry.name for entry in bench.entries
               if not entry.virtual and entry.find_port() is None]
    if len(missing) == len(bench.entries):
        click.echo(f"hil: error: none is plugged in: {', '.join(missing)}", err=True)
        sys.exit(2)
    _warn(bench)
    click.echo(f"bench: {', '.join(entry.name for entry in bench.entries)}"
               + (f"; not plugged in: {', '.join(missing)}" if missing else ""))


@click.command("give-back")
@click.argument("hil_toml", type=click.Path(path_type=Path))
def give_back(hil_toml: Path) -> None:
    """Give real boards their own settings back, after a run that could not.

    Each run does it by itself, unless the board or the bench was gone at its end.
    """
    try:
        bench = Bench.load(hil_toml)
    except BenchError as error:
        click.echo(f"hil: error: {error}", err=True)
        sys.exit(2)
    code = 0
    for entry in bench.entries:
        if entry.virtual:
            continue
        try:
            with bench.take_entry(entry):
                was = loan.give_back(entry.find_port() or "")
            click.echo(f"{entry.name}: {'has its own settings again' if was else 'has its own'}")
        except (LinkError, NoBoardError) as error:
            click.echo(f"hil: error: {entry.name}: {error}", err=True)
            code = 2
    sys.exit(code)
