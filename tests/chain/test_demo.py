"""The demo as a person runs it: its verdict, how it can fail, and that it leaves nothing."""

from __future__ import annotations

import errno
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from tools import cachedir, demo_cli
from tools.demo_state import DemoState
from tools.demo_view import LiveView, PlainView, choose_view
from tools.gateway_process import PROJECT

COMMAND = [sys.executable, "-m", "gateway", "demo", "--seconds", "30"]
VERDICT = re.compile(
    r"verdict: (PASS|FAIL) produced=(\d+) delivered=(\d+) lost=(\d+) duplicated=(\d+)"
    r" reordered=(\d+)"
)
RUNNING = "readings of every board arrive upstream"


@contextmanager
def running_demo() -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        COMMAND, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for_line(process: subprocess.Popen[str], words: str) -> None:
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if words in line:
            return
    pytest.fail("the demo ended early:\n" + "".join(seen))


def parents() -> dict[int, int]:
    """Return the parent of each process that is alive."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            found[int(stat.parent.name)] = int(fields[1])
    return found


def descendants(pid: int) -> set[int]:
    found = {pid}
    tree = parents()
    while more := {child for child, parent in tree.items() if parent in found} - found:
        found |= more
    return found - {pid}


def wait_until_gone(pids: set[int], timeout_s: float = 10.0) -> set[int]:
    """Return those of the processes that are still there after timeout_s [s]."""
    deadline = time.monotonic() + timeout_s
    while (left := pids & parents().keys()) and time.monotonic() < deadline:
        for pid in left:
            wait_for_exit(pid, deadline)
    return left


def wait_for_exit(pid: int, deadline: float) -> None:
    try:
        handle = os.pidfd_open(pid)
    except OSError:
        return
    with os.fdopen(handle):
        select.select([handle], [], [], max(0.0, deadline - time.monotonic()))


@pytest.mark.timeout(100)
def test_demo_breaks_everything_and_loses_nothing() -> None:
    with running_demo() as process:
        out, _ = process.communicate(timeout=90)
    lines = out.splitlines()
    assert process.returncode == 0, out
    for event in (
        "upstream broker killed",
        "upstream broker started again",
        "gateway killed (kill -9)",
        "gateway started again",
        "greenhouse: power cut",
        "greenhouse: power is back",
    ):
        assert sum(event in line for line in lines) == 1, event
    assert [line for line in lines if "verdict" in line] == lines[-1:]
    found = VERDICT.fullmatch(lines[-1])
    assert found is not None, lines[-1]
    produced, delivered, *wrong = (int(number) for number in found.groups()[1:])
    assert found[1] == "PASS"
    assert produced == delivered > 60
    assert wrong == [0, 0, 0]


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_demo_ended_early_leaves_no_process(end: signal.Signals) -> None:
    with running_demo() as process:
        wait_for_line(process, RUNNING)
        children = descendants(process.pid)
        assert len(children) >= 5  # broker, gateway, three boards
        process.send_signal(end)
        out, _ = process.communicate(timeout=20)
        assert process.returncode == (-9 if end is signal.SIGKILL else 130), out
        assert "verdict" not in out
        assert not wait_until_gone(children)


def test_demo_without_fault_passes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert demo_cli.play(tmp_path, 3, timeline=()) == 0
    assert "verdict: PASS" in capsys.readouterr().out.splitlines()[-1]


@pytest.mark.parametrize(
    ("fault", "kind"),
    [("drop-one", "lost"), ("double-one", "duplicated"), ("reorder", "reordered")],
)
def test_demo_faulty_gateway_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: str, kind: str
) -> None:
    assert demo_cli.play(tmp_path, 4, timeline=(), fault=fault) == 1
    lines = capsys.readouterr().out.splitlines()
    found = VERDICT.fullmatch(lines[-1])
    assert found is not None
    assert found[1] == "FAIL"
    counts = dict(zip(("lost", "duplicated", "reordered"), map(int, found.groups()[3:]),
                      strict=True))
    times = counts.pop(kind)
    assert times == 1 if fault == "drop-one" else times > 0  # the others come again and again
    assert set(counts.values()) == {0}
    assert sum(f"{kind}: " in line and " boot 1 seq " in line for line in lines) == times


@pytest.mark.parametrize("place", ["nowhere/x.svg", "/proc/x.svg"])
def test_demo_says_before_it_begins_that_no_picture_can_be_saved(
    monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.setattr(demo_cli, "play", lambda *_: pytest.fail("it began"))
    result = CliRunner().invoke(demo_cli.demo, ["--picture", place])
    assert result.exit_code == 2
    assert result.output.startswith(f"demo: error: --picture {place}: ")
    assert len(result.output.splitlines()) == 1


def test_demo_gives_its_verdict_before_it_saves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture = tmp_path / "gone" / "x.svg"
    assert demo_cli.play(tmp_path / "demo", 2, picture, timeline=()) == 2
    said = capsys.readouterr()
    assert said.out.splitlines()[-1].startswith("verdict: PASS")
    assert said.err == f"demo: error: no picture: {picture}: No such file or directory\n"


def test_demo_whose_output_is_closed_was_stopped_and_leaves_nothing() -> None:
    with subprocess.Popen(
        COMMAND, cwd=PROJECT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_for_line(process, RUNNING)
        children = descendants(process.pid)
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
        assert (process.wait(timeout=20), said) == (130, "")
    assert not wait_until_gone(children)


@pytest.mark.parametrize("error", [BrokenPipeError(errno.EPIPE, "pipe"), OSError(errno.EIO, "tty"),
                                   KeyboardInterrupt()])
def test_demo_that_was_stopped_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def play(folder: Path, *_: object) -> int:
        assert folder.parent == tmp_path
        raise error

    monkeypatch.setattr(cachedir, "root", lambda: tmp_path)
    monkeypatch.setattr(demo_cli, "play", play)
    assert CliRunner().invoke(demo_cli.demo, []).exit_code == 130
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("term", "view"), [("dumb", PlainView), ("xterm", LiveView)])
def test_demo_on_a_terminal_that_cannot_redraw_prints_lines(
    monkeypatch: pytest.MonkeyPatch, term: str, view: type
) -> None:
    monkeypatch.setenv("TERM", term)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    shown = choose_view(DemoState(["boiler"]))
    assert type(shown) is view
    shown.abort()
