"""`tidegate board`: image, firmware and settings onto a board, and what it says.

Every command takes a real board and a virtual one alike.
"""

from __future__ import annotations

import json
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from tools.boards import Board

BOARD = click.option("--board", "board_id", help="The board file, by name or its beginning.")
PORT = click.option(
    "--port", "-p", envvar="PORT", help="Its serial port; not needed if only one is there."
)


class Failure(click.ClickException):
    """One line, exit code 1."""

    def show(self, file: Any = None) -> None:
        """Print the line without decoration."""
        click.echo(f"tidegate: {self.message}", err=True)


@contextmanager
def told() -> Iterator[None]:
    """Turn what the tools raise into one line."""
    from tools.board_link import LinkError
    from tools.boards import BoardError
    from tools.debian import FetchError
    from tools.firmware import CompileError
    from tools.virtual import JailError
    from tools.virtual.control import ControlError

    try:
        yield
    except (LinkError, BoardError, FetchError, CompileError, JailError, ControlError) as error:
        raise Failure(str(error)) from error


def choose(port: str | None, board_id: str | None) -> tuple[str, Board | None]:
    """Give the port, the only one if none was named, and the board file if one can be told."""
    from tools import board_link, boards
    from tools.virtual import control

    virtual = control.running()
    real = board_link.ports()
    if port is None:
        found = [board.port for board in virtual] + [there.path for there in real]
        if len(found) != 1:
            what = "no board is plugged in" if not found else f"there are {', '.join(found)}"
            raise Failure(f"{what}: say which with --port")
        port = found[0]
    if board_id is not None:
        return port, boards.load(board_id)
    for played in virtual:
        if played.port == port:
            return port, boards.load(played.board)
    for there in real:
        if there.path == port:
            fitting = boards.fitting(there.vendor, there.product)
            if len(fitting) == 1:
                return port, fitting[0]
    return port, None


def needed(board: Board | None) -> Board:
    """Insist on a board file."""
    from tools import boards

    if board is None:
        raise Failure(f"say which board it is with --board; there are {', '.join(boards.names())}")
    return board


@click.group()
def board() -> None:
    """Boards: image, firmware, settings, console. Virtual ones too."""


@board.command("list")
def list_boards() -> None:
    """Show what is plugged in, which board file fits, and the virtual boards that run."""
    from tools import board_link, boards
    from tools.virtual import control

    with told():
        for played in control.running():
            click.echo(f"{played.port}  virtual, plays {boards.load(played.board).name}")
        for there in board_link.ports():
            fitting = [found.id for found in boards.fitting(there.vendor, there.product)]
            click.echo(
                f"{there.path}  {there.vendor:04x}:{there.product:04x} {there.what}  "
                f"{' or '.join(fitting) or 'no board file fits'}"
            )
        click.echo(f"board files: {', '.join(boards.names())}", err=True)


@board.command()
@PORT
@BOARD
@click.option("--file", "image", type=click.Path(path_type=Path), help="The image, a .bin file.")
@click.option("--keep", is_flag=True, help="Do not erase the rest of the flash first.")
def image(port: str | None, board_id: str | None, image: Path | None, keep: bool) -> None:
    """Write the MicroPython image. All that was on the board is lost."""
    from tools import flash_image

    with told():
        port, found = choose(port, board_id)
        with click.progressbar(length=100, label="image", file=sys.stderr) as bar:

            def show(percent: float) -> None:
                bar.update(max(0, int(percent) - bar.pos))

            flash_image.write(port, needed(found), image, erase=not keep, progress=show)
        click.echo(f"{port}: the image is on the board")


@board.command()
@PORT
@BOARD
def deploy(port: str | None, board_id: str | None) -> None:
    """Put the firmware onto the board: what changed, checked, and started."""
    from tools import deploy as deploying
    from tools.board_link import BoardLink

    with told():
        port, found = choose(port, board_id)
        with BoardLink(port) as link:
            raw = link.read("/config.json")
        kinds = _kinds(raw)
        bar = click.progressbar(length=0, label="deploy", file=sys.stderr)

        def total(size: int) -> None:
            bar.length = size

        with bar:
            done = deploying.deploy(
                port,
                board=found,
                kinds=kinds,
                progress=lambda _path, step: bar.update(step),
                total=total,
            )
        click.echo(
            f"{port}: {len(done.copied)} files copied ({done.bytes} bytes), {done.kept} kept, "
            f"{len(done.removed)} removed"
        )
        click.echo(f"{port}: {done.alive}")


def _kinds(raw: bytes | None) -> list[str]:
    """Give the kinds of sensors in a board's settings."""
    try:
        sensors = json.loads(raw or b"{}").get("sensors", [])
        return [str(sensor["kind"]) for sensor in sensors]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


@board.command()
@PORT
@BOARD
@click.option("--file", "path", type=click.Path(path_type=Path), help="All settings, as JSON.")
@click.option("--device", help="The device's name: 1 to 32 of a-z A-Z 0-9 _ -")
@click.option("--ssid", help="The Wi-Fi's name.")
@click.option("--wifi-password", envvar="WIFI_PASSWORD", help="Its password.")
@click.option("--gateway", help="The gateway: host or host:port.")
@click.option("--sensor", "sensors", multiple=True, help="kind:pin[:name[:period_s]]; again.")
@click.option(
    "--credentials",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Make the device a password; this file, for the gateway, gets its hash.",
)
def provision(
    port: str | None,
    board_id: str | None,
    path: Path | None,
    device: str | None,
    ssid: str | None,
    wifi_password: str | None,
    gateway: str | None,
    sensors: tuple[str, ...],
    credentials: Path | None,
) -> None:
    """Make the board this device: Wi-Fi, gateway, name, sensors. Asks for what is not given."""
    from tools import provision as provisioning

    with told():
        port, found = choose(port, board_id)
        fits = needed(found)
        settings = provisioning.load(path) if path else {}
        if device or "device" not in settings:
            settings["device"] = device or click.prompt("Device name")
        wifi = settings.setdefault("wifi", {})
        if ssid or "ssid" not in wifi:
            wifi["ssid"] = ssid or click.prompt("Wi-Fi name")
        if wifi_password is not None or "password" not in wifi:
            wifi["password"] = (
                click.prompt("Wi-Fi password", hide_input=True, default="", show_default=False)
                if wifi_password is None
                else wifi_password
            )
        at = settings.setdefault("gateway", {})
        if gateway or "host" not in at:
            host, _, number = (gateway or click.prompt("Gateway (host or host:port)")).partition(
                ":"
            )
            at["host"] = host
            if number:
                at["port"] = int(number) if number.isdigit() else number
        if sensors or "sensors" not in settings:
            asked = sensors or click.prompt("Sensors, as kind:pin:name ...", default="").split()
            settings["sensors"] = [provisioning.sensor_of(text, fits) for text in asked]
        settings = provisioning.named(settings, fits)
        provisioning.check(settings, fits)
        if credentials:
            at["user"] = settings["device"]
            at["password"] = provisioning.add_credential(credentials, settings["device"])
        alive = provisioning.provision(port, settings, fits)
        click.echo(f"{port}: {alive}")


@board.command()
@PORT
def shell(port: str | None) -> None:
    """Give the board's prompt (mpremote's repl); Ctrl-] leaves it."""
    import subprocess

    with told():
        port, _ = choose(port, None)
        command = [sys.executable, "-m", "mpremote", "connect", port, "repl"]
        sys.exit(subprocess.run(command, check=False).returncode)


@board.command()
@PORT
@click.option("--for", "seconds", type=float, help="Stop after so long [s].")
def logs(port: str | None, seconds: float | None) -> None:
    """Show what the board says, without stopping it, until Ctrl-C."""
    from tools.board_link import Console

    with told():
        port, _ = choose(port, None)
        console = Console(port)
        try:
            for line in console.lines(seconds):
                click.echo(line)
        except KeyboardInterrupt:
            pass
        finally:
            console.close()


@board.command()
@PORT
def info(port: str | None) -> None:
    """Say what the board is, what runs on it, and how much room it has. Restarts it."""
    from tools.board_link import BoardLink

    with told():
        port, found = choose(port, None)
        with BoardLink(port) as link:
            said = link.info()
            version = ".".join(map(str, said.version))
            click.echo(f"port        {port}")
            click.echo(f"board       {found.name if found else 'not told by its USB ids'}")
            click.echo(f"machine     {said.machine}")
            click.echo(f"MicroPython {version}, .mpy version {said.mpy & 0xFF}")
            click.echo(f"id          {said.unique_id}")
            click.echo(f"files       {len(link.tree(''))}, {link.free_bytes() // 1024} KB free")
            raw = link.read("/config.json")
            name = json.loads(raw).get("device") if raw else None
            click.echo(f"device      {name or 'not provisioned'}")
            link.restart()


@board.command()
@PORT
@click.option("--yes", is_flag=True, help="Do not ask.")
def erase(port: str | None, yes: bool) -> None:
    """Remove every file and setting from the board; its image stays."""
    from tools.board_link import BoardLink
    from tools.provision import wipe

    with told():
        port, _ = choose(port, None)
        if not yes:
            click.confirm(f"Remove everything from {port}?", abort=True)
        with BoardLink(port) as link:
            click.echo(f"{port}: {wipe(link)} files removed")


@board.command()
@click.option("--board", "board_id", default="virtual", show_default=True, help="What to play.")
@click.option("--image", type=click.Path(path_type=Path), help="Where to keep its flash.")
@click.option("--deploy/--bare", "deployed", default=False, help="With the firmware on it.")
@click.option("--ssid", help="Its access point; any, if not given.")
@click.option("--wifi-password", help="The access point's password.")
@click.option("--heap", "heap_kb", type=int, help="Its Python heap [KiB]; the board file's.")
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
    from tools.virtual import VirtualBoard
    from tools.virtual.control import Control

    def say(line: str) -> None:
        click.echo(line, err=True)

    with told(), tempfile.TemporaryDirectory(prefix="tidegate-board-") as folder:
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        plays = VirtualBoard(
            image=image or Path(folder) / "flash.img",
            board=boards.load(board_id).id,
            files=firmware.FOLDER if deployed else None,
            heap_kb=heap_kb,
            pty=True,
            on_line=None if quiet else click.echo,
            access_point=(ssid, wifi_password),
            say=say,
        )
        with plays, Control(plays):
            click.echo(f"port {plays.port}")
            sys.stdout.flush()
            try:
                signal.pause()
            except KeyboardInterrupt:
                pass


@board.command()
@click.option("--sensors", type=click.IntRange(1, 4), default=4, show_default=True)
@click.option("--budget", "budget_kb", type=int, help="Also show whether it runs in this [KiB].")
def heap(sensors: int, budget_kb: int | None) -> None:
    """Measure the heap that the firmware needs, on a virtual board with a filling ring."""
    from tools import heap as measuring

    with told():
        need = measuring.measure(sensors)
        click.echo(f"stand-ins   {need.stand_ins / 1024:.1f} KB, which a real image has built in")
        click.echo(f"firmware    {need.firmware / 1024:.1f} KB with {sensors} sensors")
        if budget_kb is not None:
            runs = measuring.runs_in(sensors, budget_kb)
            click.echo(f"budget      {budget_kb} KB: {'runs' if runs else 'does not run'}")
            sys.exit(0 if runs else 1)


@board.command()
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


if __name__ == "__main__":
    board()
