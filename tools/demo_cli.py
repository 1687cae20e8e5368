"""`tidegate demo`: the chain live on this machine, while things break."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

import click

from tools import cachedir
from tools.debian import FetchError
from tools.demo import TIMELINE, DemoError, Show, Step
from tools.demo_boards import NAMES, make_board
from tools.demo_view import choose_view, save_picture
from tools.judge import JudgeError
from tools.ports import PortError
from tools.procs import ChildError
from tools.writable import check_file, reason

SHORTEST_S = 30
KEEP_LOGS_S = 3600
STOPPED = 130
CLOSED = (errno.EPIPE, errno.EIO)  # what writing to a pipe, to a terminal says that nobody reads


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@click.command()
@click.option(
    "--seconds",
    type=click.IntRange(min=SHORTEST_S),
    default=45,
    show_default=True,
    help="How long to count before the verdict [s].",
)
@click.option(
    "--picture",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the last picture to this SVG file.",
)
def demo(seconds: int, picture: Path | None) -> None:
    """Show the whole chain at work: three virtual boards, the gateway and a real Mosquitto.

    Within the time the broker is killed, the gateway gets kill -9 and a board loses its power,
    and each comes back. A subscriber at the upstream counts. The last line is the verdict; the
    exit code is 0 for PASS, 1 for FAIL, 2 where the demo could not run, 130 where it
    was stopped before its verdict: by Ctrl-C, or because its output was closed.
    """
    if picture is not None:
        try:
            check_file(picture)
        except OSError as error:
            click.echo(f"demo: error: --picture {picture}: {reason(error)}", err=True)
            sys.exit(2)
    signal.signal(signal.SIGTERM, _interrupt)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # as nohup has it
        signal.signal(signal.SIGHUP, _interrupt)
    cachedir.root().mkdir(parents=True, exist_ok=True)
    for old in cachedir.root().glob("demo-*"):
        if time.time() - old.stat().st_mtime > KEEP_LOGS_S:
            shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix="demo-", dir=cachedir.root()))
    code, said = 2, ""
    try:
        code = play(folder, seconds, picture)
    except (DemoError, ChildError, PortError, JudgeError, FetchError) as error:
        said = f"demo: error: {error}"
    except KeyboardInterrupt:
        code, said = STOPPED, "demo: stopped; nothing was judged"
    except OSError as error:
        if error.errno not in CLOSED:
            raise
        code = STOPPED
    if code in (1, 2):
        said = f"{said}\ndemo: the logs are in {folder}".strip()
    else:
        shutil.rmtree(folder, ignore_errors=True)
    _last_words(said)
    sys.exit(code)


def _last_words(said: str) -> None:
    """Say what is left to say, if anybody still hears it."""
    for stream in (sys.stderr, sys.stdout):
        try:
            if said and stream is sys.stderr:
                print(said, file=stream)
            stream.flush()
        except OSError:  # else Python tries once more at its exit, and exits with 120
            with Path(os.devnull).open("w") as nowhere:
                os.dup2(nowhere.fileno(), stream.fileno())


def play(
    folder: Path,
    seconds: float,
    picture: Path | None = None,
    *,
    timeline: Sequence[Step] = TIMELINE,
    fault: str = "",
) -> int:
    """Put the show on in `folder`; gives the exit code."""
    show = Show(folder, make_board, NAMES, length_s=seconds, timeline=timeline, fault=fault)
    with show:
        view = choose_view(show.state)
        try:
            verdict = show.run(view)
        except BaseException:
            view.abort()
            raise
    view.close(verdict.line)
    code = 0 if verdict.passed else 1
    if picture is not None:
        try:
            save_picture(show.state, verdict.line, picture)
        except OSError as error:
            click.echo(f"demo: error: no picture: {picture}: {reason(error)}", err=True)
            return code or 2
    return code
