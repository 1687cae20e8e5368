"""The command line `tidegate`. Groups of the host tools join by entry point."""

from __future__ import annotations

import asyncio
import gc
import json
import sys
from datetime import timedelta
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points, version
from pathlib import Path

import click

from gateway import config as config_file
from gateway import control, log
from gateway.errors import TidegateError
from gateway.journal import SIZE_BYTES

# Command → the file it is in, read only when it is asked for.
_GROUPS = {"certs": "gateway.certs_cli", "device": "gateway.device_cli",
           "devices": "gateway.look_cli", "outbox": "gateway.look_cli",
           "watch": "gateway.look_cli"}


def _loads(point: EntryPoint) -> bool:
    """Whether what a host-tools command needs is there; on a Pi it is not."""
    try:
        point.load()
    except ModuleNotFoundError:
        return False
    return True


class _Commands(click.Group):
    """Loads a host-tools command only when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        names = {point.name for point in entry_points(group="tidegate.commands") if _loads(point)}
        return sorted(names | set(_GROUPS) | set(super().list_commands(ctx)))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        own = super().get_command(ctx, cmd_name)
        if own is not None:
            return own
        if cmd_name in _GROUPS:
            found = getattr(import_module(_GROUPS[cmd_name]), cmd_name)
            assert isinstance(found, click.Command)
            return found
        for point in entry_points(group="tidegate.commands", name=cmd_name):
            try:
                command = point.load()
            except ModuleNotFoundError as error:
                raise click.ClickException(
                    f"{cmd_name} needs {error.name}: pip install 'tidegate[tools]'") from error
            assert isinstance(command, click.Command)
            return command
        return None


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(version("tidegate"))
def cli() -> None:
    """Carry sensor readings from ESP32 boards to an MQTT broker and lose none of them."""


_CONFIG = click.option("-c", "--config", "path", type=click.Path(path_type=Path),
                       default=Path("/etc/tidegate/tidegate.toml"), show_default=True,
                       help="The config file (TOML).")


@cli.command()
@_CONFIG
@click.option("--check", is_flag=True, help="Read the config, say what is wrong, and exit.")
def run(path: Path, check: bool) -> None:
    """Run the gateway in the foreground until SIGTERM or Ctrl-C.

    Devices connect to [listener] listen; what they send is on disk in [outbox] path before it is
    acknowledged, and goes to [upstream] url.
    """
    config = config_file.load(path, running=not check)
    config_file.refuse_loop(config, path)
    if check:
        click.echo(f"{path}: ok")
        return
    log.set_up(config.log_level)
    from gateway.service import Service

    # Messages make few cycles: looking for them less often saves 5 % of the CPU under load.
    gc.set_threshold(20_000, 20, 50)
    service = Service(path, config)
    serving = service.run()
    try:
        import uvloop
    except ImportError:  # it only makes it faster
        asyncio.run(serving)
    else:
        uvloop.run(serving)
    if service.exit_code:
        sys.exit(service.exit_code)


@cli.command()
@_CONFIG
@click.option("--json", "as_json", is_flag=True, help="Everything, as one JSON object.")
def status(path: Path, as_json: bool) -> None:
    """Tell how the running gateway is: upstream, backlog, devices, disk."""
    answer = control.ask(config_file.outbox_of(path))
    if as_json:
        click.echo(json.dumps(answer))
        return
    ports = {"port": answer["port"], "TLS": answer["tls_port"]}
    click.echo(f"gateway    {answer['id']}, "
               + (", ".join(f"{name} {port}" for name, port in ports.items() if port)
                  or "listens for no device"))
    click.echo(f"upstream   {answer['upstream']} ({answer['upstream_connects']} connects)")
    for notice in answer["upstream_notices"]:
        click.echo(f"notice     {notice}")
    if answer["broker"] is not None:
        click.echo(f"broker     {answer['broker']} ({answer['broker_connects']} connects)")
    click.echo(f"outbox     {answer['depth']} messages, the oldest "
               f"{timedelta(seconds=answer['oldest_s'])} old, {answer['in_flight']} in flight, "
               f"{answer['refused']} refused")
    click.echo(f"           {answer['bytes']:,} of {answer['max_bytes']:,} bytes "
               f"({answer['bytes'] / answer['max_bytes']:.0%})")
    if answer["refused"]:
        click.echo("           refused ones stay there: see `tidegate outbox retry --help`")
    if answer["moved"]:
        click.echo("           last used on another machine, which must not use it any more")
    click.echo(f"devices    {answer['connected_devices']} connected")
    click.echo(f"delivered  {answer['delivered']} since it started")
    for what, count in sorted(answer["after_lost_session"].items()):
        click.echo(f"           {count} {what} after a lost session, see after_lost_session")
    if answer["releases_given_up"]:
        click.echo(f"           of {answer['releases_given_up']} the upstream closes over PUBREL")
    wear = ""  # not before the journal's file, made once, is a small part of it
    if answer["payload_bytes"] >= SIZE_BYTES and answer["written_bytes"]:
        each = answer["written_bytes"] / answer["payload_bytes"]
        wear = f", {each:.1f} bytes written for each of payload"
    click.echo(f"disk       {answer['disk']}{wear}")
    risks = "; ".join(answer["at_risk"])
    click.echo(f"promise    {f'AT RISK: {risks}' if risks else 'kept'}")
    if answer["logins"].get("failed"):
        click.echo(f"logins     {answer['logins']['failed']} failed")
    for title in ("dropped", "closed"):
        for reason, count in sorted(answer[title].items()):
            click.echo(f"{title:<10} {count} {reason}")


def main() -> None:
    """Entry point: one line for an error that a person can mend, exit 2."""
    try:
        cli(standalone_mode=True)
    except TidegateError as error:
        print(f"tidegate: {error}", file=sys.stderr)
        sys.exit(2)
