"""`tidegate board virtual`, `do` and `heap`: boards that are played on this machine."""

from __future__ import annotations

import signal
import sys
import tempfile
from pathlib import Path
from queue import SimpleQueue

import click

from tools.board_choice import PORT, Failure, choose, told


@click.command()
@click.option("--board", "board_id", default="virtual", show_default=True, help="What to play.")
@click.option("--image", type=click.Path(path_type=Path), help="Where to keep its flash.")
@click.option("--deploy/--bare", "deployed", default=False, help="With the firmware on it.")
@click.option("--ssid", help="Its access point; any, if not given.")
@click.option("--wifi-password", help="The access point's password.")
@click.option(
    "--heap",
    "heap_kb",
    type=click.IntRange(min=1),
    help="Its Python heap [KiB], stand-ins and all.",
)
@click.option("--quiet", is_flag=True, help="Do not show its console.")
def virtual(
    board_id: str,
    image: Path | None,
    deployed: bool,
    ssid: str | None,
    wifi_password: str | None,
    heap_kb: int | None,
    quiet: bool,
) -> None:
    """Play a board until Ctrl-C. It has a serial port like a real one; `list` shows it."""
    from tools import boards, firmware
    from tools.virtual import BoardStoppedError, VirtualBoard
    from tools.virtual.control import Control

    died: SimpleQueue[BaseException] = SimpleQueue()

    def say(line: str) -> None:
        click.echo(line, err=True)

    def hear(line: str) -> None:
        if not quiet:
            click.echo(line)
        if plays.core.died is not None:
            died.put(plays.core.died)

    with told(), tempfile.TemporaryDirectory(prefix="tidegate-board-") as folder:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        plays = VirtualBoard(
            image=image or Path(folder) / "flash.img",
            board=boards.load(board_id).id,
            files=firmware.FOLDER if deployed else None,
            heap_kb=heap_kb,
            pty=True,
            on_line=hear,
            access_point=(ssid, wifi_password),
            say=say,
        )
        try:
            with plays, Control(plays):
                click.echo(f"port {plays.port}")
                sys.stdout.flush()
                raise died.get()
        except KeyboardInterrupt:
            pass
        except BoardStoppedError as error:
            why = "" if heap_kb is None else f"; is --heap {heap_kb} enough?"
            raise Failure(f"{error}{why}") from error


@click.command()
@click.option("--sensors", type=click.IntRange(1, 4), help="How many; as many as have a budget.")
@click.option(
    "--budget",
    "budget_kb",
    type=click.IntRange(min=1),
    help="Show whether it runs in this [KiB].",
)
def heap(sensors: int | None, budget_kb: int | None) -> None:
    """Measure the heap that the firmware needs, on a virtual board with a filling ring."""
    from tools import heap as measuring

    runs = True
    with told():
        for count in [sensors] if sensors else measuring.BUDGETS_KB:
            need = measuring.measure(count)
            click.echo(f"stand-ins   {need.stand_ins / 1024:.1f} KB, built into a real image")
            click.echo(f"firmware    {need.firmware / 1024:.1f} KB with {count} sensors")
            limit_kb = budget_kb or measuring.BUDGETS_KB.get(count)
            if limit_kb is not None:
                fits = measuring.runs_in(count, limit_kb)
                click.echo(f"budget      {limit_kb} KB: {'runs' if fits else 'does not run'}")
                runs = runs and fits
    sys.exit(0 if runs else 1)


@click.command()
@PORT
@click.argument("what", type=click.Choice(["power-cut", "power-on", "reset", "wifi", "set"]))
@click.argument("words", nargs=-1)
def do(port: str | None, what: str, words: tuple[str, ...]) -> None:
    """Do to a virtual board what hands do: wifi on|off, set PLACE QUANTITY=VALUE ..."""
    from tools.virtual import control

    with told():
        port, _ = choose(port, None)
        played = control.find(port)
        if played is None:
            raise Failure(f"{port}: no virtual board runs there")
        if what == "wifi":
            if words not in (("on",), ("off",)):
                raise Failure("wifi: want on or off")
            played.do("wifi", on=words == ("on",))
        elif what == "set":
            if len(words) < 2 or any("=" not in word for word in words[1:]):
                raise Failure("set: want PLACE QUANTITY=VALUE, as in: set air temperature_c=21.5")
            pairs = (word.split("=", 1) for word in words[1:])
            try:
                values = {key: float(value) for key, value in pairs}
            except ValueError as error:
                raise Failure(f"set: {error}") from error
            played.do("set", place=words[0], **values)
        else:
            played.do(what)
