"""`tidegate demo`: the chain live on this machine, while things break."""

from __future__ import annotations

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
    exit code is 0 for PASS, 1 for FAIL, 2 where the demo could not run, 130 after Ctrl-C.
    """
    if picture is not None:
        try:
            check_file(picture)
        except OSError as error:
            click.echo(f"demo: error: --picture {picture}: {reason(error)}", err=True)
            sys.exit(2)
    signal.signal(signal.SIGTERM, _interrupt)
    cachedir.root().mkdir(parents=True, exist_ok=True)
    for old in cachedir.root().glob("demo-*"):
        if time.time() - old.stat().st_mtime > KEEP_LOGS_S:
            shutil.rmtree(old, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix="demo-", dir=cachedir.root()))
    code = 2
    try:
        code = play(folder, seconds, picture)
    except (DemoError, ChildError, PortError, JudgeError, FetchError) as error:
        click.echo(f"demo: error: {error}", err=True)
    except KeyboardInterrupt:
        click.echo("demo: stopped; nothing was judged", err=True)
        code = 130
    if code in (1, 2):
        click.echo(f"demo: the logs are in {folder}", err=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)
    sys.exit(code)


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
