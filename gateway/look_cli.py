"""`tidegate devices`, `watch` and `outbox`: what the running gateway says, and what can be done
about messages that were set aside."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import click

from gateway import config as config_file
from gateway import control, outbox_view, refused
from gateway.control import NotRunningError
from gateway.errors import OutboxError

_CONFIG = click.option("-c", "--config", "path", type=click.Path(path_type=Path),
                       default=Path("/etc/tidegate/tidegate.toml"), show_default=True,
                       help="The config file (TOML).")


def _use(ctx: click.Context, _option: click.Parameter, path: Path | None) -> None:
    ctx.obj = path or ctx.obj


# Of a command of `outbox`, which takes it too: its path is then the command's object.
_OWN_CONFIG = click.option("-c", "--config", type=click.Path(path_type=Path), callback=_use,
                           expose_value=False, help="The config file, where not given before.")
_JSON = click.option("--json", "as_json", is_flag=True, help="As JSON.")


@click.command()
@_CONFIG
@_JSON
def devices(path: Path, as_json: bool) -> None:
    """List who is connected."""
    rows = control.ask(config_file.outbox_of(path), "devices")["devices"]
    if as_json:
        click.echo(json.dumps(rows))
        return
    for row in rows:
        held = f"  {row['held']} held back" if row["held"] else ""
        click.echo(f"{row['client']:<32}  {row['peer']:<22}  "
                   f"for {timedelta(seconds=row['connected_s'])}, "
                   f"heard {row['silent_s']:.0f} s ago{held}")
    click.echo(f"{len(rows)} connected")


@click.command()
@_CONFIG
@click.option("--every", "every_s", default=2.0, show_default=True, type=click.FloatRange(0.1),
              help="Seconds between lines.")
@click.option("--count", default=0, type=click.IntRange(0),
              help="Stop after so many lines; 0 for never.")
def watch(path: Path, every_s: float, count: int) -> None:
    """Print a line about the running gateway again and again, until Ctrl-C."""
    outbox, shown = config_file.outbox_of(path), 0
    before: dict[str, Any] | None = None
    while True:
        try:
            now = control.ask(outbox)
        except NotRunningError as error:
            before = None
            click.echo(f"{time.strftime('%H:%M:%S')}  {error}")
        else:
            rates = [(now["counts"].get("received", 0) - before["counts"].get("received", 0)),
                     (now["delivered"] - before["delivered"])] if before else [0, 0]
            click.echo(f"{time.strftime('%H:%M:%S')}  in {rates[0] / every_s:.0f}/s  "
                       f"out {rates[1] / every_s:.0f}/s  waiting {now['depth']}  "
                       f"devices {now['connected_devices']}  upstream {now['upstream']}  "
                       f"disk {now['disk']}", nl=True)
            before = now
        shown += 1
        if shown == count:
            return
        time.sleep(every_s)


@click.group(invoke_without_command=True)
@_CONFIG
@_JSON
@click.pass_context
def outbox(ctx: click.Context, path: Path, as_json: bool) -> None:
    """Show what waits for the upstream, by route; `export` writes it out.

    Messages that the upstream refused are set aside, in the lane `refused`: see `retry`, `drop`.
    """
    ctx.obj = path
    if ctx.invoked_subcommand is not None:
        return
    file = config_file.outbox_of(path)
    try:
        found = control.ask(file, "outbox")
    except NotRunningError:
        found = outbox_view.closed_summary(file)
    if as_json:
        click.echo(json.dumps(found))
        return
    click.echo(f"{found['depth']} messages, {found['bytes']:,} bytes, the oldest "
               f"{timedelta(seconds=found['oldest_s'])} old")
    for row in found["routes"]:
        click.echo(f"  {row['route']:<32}  {row['lane']:<8}  {row['depth']:>9}  "
                   f"{row['bytes']:>13,} bytes  oldest {timedelta(seconds=row['oldest_s'])}")


@outbox.command()
@_OWN_CONFIG
@click.argument("file", type=click.File("w", lazy=False))
@click.pass_obj
def export(path: Path, file: Any) -> None:
    """Write every message as a JSON line to FILE (- for standard output). Nothing is removed."""
    count = 0
    for row in _rows(config_file.outbox_of(path)):
        file.write(json.dumps(row) + "\n")
        count += 1
    click.echo(f"{count} messages", err=True)


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    try:
        rows = control.ask(file, "rows -1")["rows"]
    except NotRunningError:
        yield from outbox_view.all_rows(file)
        return
    while rows:
        yield from rows
        rows = control.ask(file, f"rows {rows[-1]['key']}")["rows"]


_TOPIC = click.option("--topic", "topic_filter", default="#", show_default=True, metavar="FILTER",
                      help="Only messages whose topic upstream matches this MQTT filter.")


@outbox.command()
@_OWN_CONFIG
@_TOPIC
@click.pass_obj
def retry(path: Path, topic_filter: str) -> None:
    """Have messages that the upstream refused sent again, once the cause is mended.

    The gateway has to be stopped meanwhile, and sends them when it starts. They come after what
    the same device has sent since.
    """
    count = refused.retry(_stopped(path), topic_filter)
    click.echo(f"{count} messages are sent again when the gateway starts")


@outbox.command()
@_OWN_CONFIG
@_TOPIC
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.pass_obj
def drop(path: Path, topic_filter: str, yes: bool) -> None:
    """Delete messages that the upstream refused, for good. `export` keeps a copy.

    The gateway has to be stopped meanwhile.
    """
    file = _stopped(path)
    if not yes and (count := refused.count(file, topic_filter)):
        click.confirm(f"Delete {count} refused messages for good?", abort=True)
    click.echo(f"{refused.drop(file, topic_filter)} messages deleted")


def _stopped(path: Path) -> Path:
    """Return the outbox of a gateway that is stopped. Raises OutboxError where it runs."""
    file = config_file.outbox_of(path)
    try:
        control.ask(file)
    except NotRunningError:
        return file
    raise OutboxError("the gateway is running: stop it first (sudo systemctl stop tidegate), and "
                      "start it when this is done")
