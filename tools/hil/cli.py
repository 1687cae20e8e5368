"""`tidegate hil`: record, replay, run scenarios, show the boards of a bench."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import chain
from pathlib import Path

import click
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from tools.hil import record as recorder
from tools.hil import run_cli
from tools.hil.recording import Event, RecordingError, create, new_header, read, read_header
from tools.hil.replay import Replay, replay_file
from tools.ports import HOST

INVALID = 3
_PORT, _FROM_1 = click.IntRange(1, 65535), click.IntRange(min=1)
_FROM_0, _ABOVE_0 = click.FloatRange(min=0), click.FloatRange(min=0, min_open=True)
_OUT = click.option("-o", "--output", "out", type=click.Path(path_type=Path), default=Path("-"),
                    help="The recording to write; standard output where none is named.")
_LEVEL = click.option("--client-level", type=click.IntRange(min=1), metavar="N",
                      help="Take the N-th level of a topic, from 1, for its sender's identifier.")


@click.group()
def hil() -> None:
    """Record traffic, replay it, break the chain on purpose, and judge what was lost."""


def _tell(text: str) -> None:
    click.echo(f"hil: {text}", err=True)


def _stop(text: object) -> None:
    _tell(f"error: {text}")
    sys.exit(2)


def _until_signalled(seconds: float | None) -> None:
    """Wait for Ctrl-C, SIGTERM or the end of the time."""
    over = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: over.set())
    over.wait(seconds)


@hil.group()
def record() -> None:
    """Make a recording (docs/recording.md) of a broker, a gateway's wires, a log or a capture."""


@record.command("broker")
@click.option("-h", "--host", default="127.0.0.1", show_default=True)
@click.option("-p", "--port", type=_PORT, default=1883, show_default=True)
@click.option("-t", "--topic", "filters", multiple=True, default=("#",), show_default=True,
              help="A topic filter; may be given several times.")
@click.option("-u", "--username")
@click.option("--password-file", type=click.Path(path_type=Path))
@click.option("--ca-file", help="Speak TLS and trust this authority.")
@click.option("--seconds", type=_ABOVE_0, help="End after so long [s]; otherwise at Ctrl-C.")
@_LEVEL
@_OUT
def record_broker(host: str, port: int, filters: tuple[str, ...], username: str | None,
                  password_file: Path | None, ca_file: str | None, seconds: float | None,
                  client_level: int | None, out: Path) -> None:
    """Subscribe to a broker and record what arrives. It cannot tell senders, wills, cuts."""
    try:
        recorder.check_filters(filters)
        password = password_file.read_text().strip() if password_file else None
        with create(out, new_header(f"broker {host}:{port}", filters=list(filters))) as writer:
            source = recorder.BrokerRecorder(
                writer, host, port, filters=filters, client_level=client_level or 0,
                username=username, password=password, ca_file=ca_file)
            source.start()
            _tell(f"recording {host}:{port}; Ctrl-C ends it")
            _until_signalled(seconds)
            source.close()
    except (RecordingError, OSError) as error:
        _stop(error)
    _tell(f"{writer.count} events")


def _pair(text: str) -> tuple[int, int]:
    listen, _, target = text.partition(":")
    try:
        ports = int(listen), int(target)
        if not (0 <= ports[0] <= 65535 and 0 < ports[1] <= 65535):
            raise ValueError
        return ports
    except ValueError:
        raise click.BadParameter(f"{text!r}: LISTEN:TARGET is needed, two ports") from None


@record.command("gateway")
@click.option("--device", metavar="LISTEN:TARGET", help="Devices connect to LISTEN; the gateway "
              "listens on TARGET.")
@click.option("--upstream", metavar="LISTEN:TARGET", help="The gateway connects to LISTEN; the "
              "broker listens on TARGET.")
@click.option("--seconds", type=_ABOVE_0, help="End after so long [s]; otherwise at Ctrl-C.")
@_OUT
def record_gateway(device: str | None, upstream: str | None, seconds: float | None, out: Path
                   ) -> None:
    """Stand in the gateway's wires on this machine and record connects, wills, messages, ends."""
    sides = {name: _pair(text) for name, text in (("device", device), ("upstream", upstream))
             if text}
    if not sides:
        _stop("name at least one of --device and --upstream")

    async def run() -> None:
        over = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, over.set)
        if seconds is not None:
            loop.call_later(seconds, over.set)
        tap = recorder.WireRecorder(writer.write, sides)

        def ready() -> None:
            for name, proxy in tap.proxies.items():
                _tell(f"{name or 'wire'}: connect to port {proxy.port}")

        await tap.run(over, ready)

    try:
        with create(out, new_header("gateway", sides=sorted(sides))) as writer:
            asyncio.run(run())
    except OSError as error:
        _stop(error)
    _tell(f"{writer.count} events")


def _import(make: Callable[[recorder.Began], Iterator[Event]], source: str, out: Path) -> None:
    """Write what `make` gives, with its own time as the recording's begin."""
    began: list[datetime] = []
    try:
        events = make(began.append)
        first = next(events, None)
    except RecordingError as error:
        _stop(error)
    header = new_header(source, when=began[0] if began else None)
    try:
        with create(out, header) as writer:
            for event in chain([first] if first else [], events):
                writer.write(event)
    except (RecordingError, OSError) as error:
        if str(out) != "-":
            out.unlink(missing_ok=True)
        _stop(error)
    _tell(f"{writer.count} events")


@record.command("log")
@click.argument("log", type=click.Path(path_type=Path))
@_LEVEL
@_OUT
def record_log(log: Path, client_level: int | None, out: Path) -> None:
    """Import a log of `mosquitto_sub -F %j` (or %J)."""
    _import(lambda began: recorder.import_log_file(log, client_level=client_level or 0,
                                                   on_begin=began), f"log {log.name}", out)


@record.command("pcap")
@click.argument("capture", type=click.Path(path_type=Path))
@click.option("-p", "--port", "ports", type=_PORT, multiple=True, default=(1883,),
              show_default=True, help="The broker's port; may be given several times.")
@_OUT
def record_pcap(capture: Path, ports: tuple[int, ...], out: Path) -> None:
    """Import what MQTT clients said in a pcap or pcapng capture (tcpdump -w, Wireshark)."""
    try:
        from tools.hil.pcap import import_pcap
    except ModuleNotFoundError as error:
        raise click.ClickException(
            f"this needs {error.name}: pip install 'tidegate[tools]'") from error
    _import(lambda began: import_pcap(capture, ports, on_begin=began), f"pcap {capture.name}",
            out)


def _someone_at(host: str, port: int) -> None:
    """Raise OSError where nobody listens: to find out after an hour is too late."""
    try:
        socket.create_connection((host, port), timeout=5.0).close()
    except OSError as error:
        raise OSError(f"{host}:{port}: nobody to replay to: {error.strerror or error}") from error


@hil.command()
@click.argument("recording", type=click.Path(path_type=Path))
@click.option("-h", "--host", default=HOST, show_default=True)
@click.option("-p", "--port", type=_PORT, default=1883, show_default=True)
@click.option("--speed", type=_FROM_0, default=1.0, show_default=True,
              help="1: as recorded; 2: twice as fast; 0: as fast as it is acknowledged.")
@click.option("--loop", "loops", type=_FROM_1, default=1, show_default=True,
              help="Play it so many times.")
@click.option("--copies", "clients", type=_FROM_1, default=1, show_default=True,
              help="Play each client so many times, each with its own identifier.")
@click.option("--side", default="device", show_default=True,
              type=click.Choice(["device", "upstream"]),
              help="Of a recording of both sides of a gateway: which to play.")
@click.option("--late-ms", "budget_ms", type=_FROM_0, default=0.0,
              help="INVALID (exit code 3) where the p99 of its own lateness is above this.")
@click.option("--drain", "drain_s", type=_FROM_0, default=30.0, show_default=True,
              help="How long to wait for the last acknowledgements [s].")
def replay(recording: Path, host: str, port: int, speed: float, loops: int, clients: int,
           side: str, budget_ms: float, drain_s: float) -> None:
    """Play a recording as the clients that were recorded, each message at its own deadline.

    Exit code 0: all was sent and acknowledged; 1: something was not; 2: it could not be played;
    3: INVALID, the replay itself was too late.
    """
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.completed} events, {task.description}"),
               TimeElapsedColumn())
    try:
        read_header(recording)
        _someone_at(host, port)
        with Progress(*columns, console=console, transient=True) as shown:
            task = shown.add_task("", total=None)
            player = Replay(
                port, host=host, speed=speed, budget_ms=budget_ms, side=side,
                progress=lambda done, at_s: shown.update(
                    task, completed=done, description=f"at {at_s:.1f} s of the recording"))
            report = asyncio.run(replay_file(recording, port, loops=loops, clients=clients,
                                             drain_s=drain_s, replay=player))
    except (RecordingError, OSError) as error:
        _stop(error)
    except KeyboardInterrupt:
        sys.exit(130)
    click.echo(report.line)
    if not report.valid:
        sys.exit(INVALID)
    sys.exit(1 if report.unfinished else 0)


@hil.command()
@click.argument("recording", type=click.Path(path_type=Path))
def show(recording: Path) -> None:
    """Tell what is in a recording."""
    counts: dict[str, int] = {}
    clients, topics, last_s = set(), set(), 0.0
    try:
        header = read_header(recording)
        for event in read(recording):
            counts[event.e] = counts.get(event.e, 0) + 1
            clients.add(event.c)
            topics.add(event.topic)
            last_s = event.t / 1e9
    except RecordingError as error:
        _stop(error)
    told = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
    with contextlib.suppress(KeyError):
        topics.discard("")
    click.echo(f"{header.source}, begun {header.began}: {last_s:.1f} s, {told or 'nothing'}; "
               f"{len(clients)} clients, {len(topics)} topics")


hil.add_command(run_cli.run)
hil.add_command(run_cli.boards)
hil.add_command(run_cli.check)
hil.add_command(run_cli.give_back)
