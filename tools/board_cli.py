"""`tidegate board`: image, firmware and settings onto a board, and what it says.

Every command takes a real board and a virtual one alike.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from tools.board_choice import BOARD, PORT, choose, needed, powered, told
from tools.virtual_cli import do, heap, virtual


@click.group()
def board() -> None:
    """Boards: image, firmware, settings, console. Virtual ones too."""


@board.command("list")
def list_boards() -> None:
    """Show what is plugged in, which board file fits, and the virtual boards that run."""
    from tools import boards, serial_port
    from tools.virtual import control

    with told():
        for played in control.running():
            click.echo(f"{played.port}  virtual, plays {boards.load(played.board).name}")
        for there in serial_port.ports():
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

            used = flash_image.write(port, needed(found), image, erase=not keep, progress=show)
        click.echo(f"{port}: the image is on the board{f', {used.name}' if used else ''}")


@board.command()
@PORT
@BOARD
def deploy(port: str | None, board_id: str | None) -> None:
    """Put the firmware onto the board: what changed, checked, and started."""
    from tools import deploy as deploying

    with told():
        port, found = choose(port, board_id)
        done = deploying.deploy(
            powered(port), board=found, say=lambda line: click.echo(line, err=True)
        )
        click.echo(
            f"{port}: {len(done.copied)} files copied ({done.bytes} bytes), {done.kept} kept, "
            f"{len(done.removed)} removed, {done.slot} runs"
        )
        _say(port, done.alive)


def _say(port: str, lines: str) -> None:
    for line in lines.splitlines():
        click.echo(f"{port}: {line}")


@board.command()
@PORT
@BOARD
@click.option("--file", "path", type=click.Path(path_type=Path), help="All settings, as JSON.")
@click.option("--device", help="The device's name: 1 to 32 of a-z A-Z 0-9 _ -")
@click.option("--ssid", help="The Wi-Fi's name.")
@click.option("--wifi-password", envvar="WIFI_PASSWORD", help="Its password.")
@click.option("--gateway", help="The gateway: host or host:port.")
@click.option(
    "--gateway-password",
    envvar="GATEWAY_PASSWORD",
    help="What `tidegate device add` printed, where the gateway wants a login.",
)
@click.option(
    "--ca",
    "authority",
    type=click.Path(path_type=Path),
    help="Use TLS, and trust the gateway's certificate by this authority (ca.crt).",
)
@click.option(
    "--sensor",
    "sensors",
    multiple=True,
    help="kind:pin[:name[:period_s]], as dht22:4:air:10 or sht4x:scl=22,sda=21; again for more.",
)
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
    gateway_password: str | None,
    authority: Path | None,
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
        if gateway_password:
            at["user"], at["password"] = settings["device"], gateway_password
        if sensors or "sensors" not in settings:
            asked = sensors or click.prompt("Sensors, as kind:pin:name ...", default="").split()
            settings["sensors"] = [provisioning.sensor_of(text, fits) for text in asked]
        settings = provisioning.named(settings, fits)
        provisioning.check(settings, fits)
        if credentials:
            at["user"] = settings["device"]
            at["password"] = provisioning.add_credential(credentials, settings["device"])
        ca = provisioning.authority(authority) if authority else None
        _say(port, provisioning.provision(powered(port), settings, fits, ca))


@board.command()
@PORT
def shell(port: str | None) -> None:
    """Give the board's prompt (mpremote's repl); Ctrl-] leaves it."""
    import subprocess

    with told():
        port, _ = choose(port, None)
        command = [sys.executable, "-m", "mpremote", "connect", powered(port), "repl"]
        sys.exit(subprocess.run(command, check=False).returncode)


@board.command()
@PORT
@click.option(
    "--for",
    "seconds",
    type=click.FloatRange(min=0, min_open=True),
    help="Stop after so long [s].",
)
def logs(port: str | None, seconds: float | None) -> None:
    """Show what the board says, without stopping it, until Ctrl-C."""
    from tools.serial_port import Console

    with told():
        port, _ = choose(port, None)
        console = Console(powered(port))
        click.echo(f"{port}: a board that is well says a line a minute; Ctrl-C ends", err=True)
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
    from tools import slots
    from tools.board_link import BoardLink

    with told():
        port, found = choose(port, None)
        with BoardLink(powered(port)) as link:
            said = link.info()
            version = ".".join(map(str, said.version))
            click.echo(f"port        {port}")
            click.echo(f"board       {found.name if found else 'not told by its USB ids'}")
            click.echo(f"machine     {said.machine}")
            click.echo(f"MicroPython {version}, .mpy version {said.mpy & 0xFF}")
            click.echo(f"id          {said.unique_id}")
            click.echo(f"files       {len(link.tree(''))}, {link.free_bytes() // 1024} KB free")
            click.echo(f"slot        {slots.look(link).runs or 'none is whole'}")
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
        with BoardLink(powered(port)) as link:
            click.echo(f"{port}: {wipe(link)} files removed")


for _command in (virtual, do, heap):
    board.add_command(_command)


if __name__ == "__main__":
    board()
