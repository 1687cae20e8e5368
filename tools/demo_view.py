"""The demo on a screen: a live picture on a terminal, plain lines elsewhere."""

from __future__ import annotations

import re
import sys
import time
from pathlib import Path
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from tools.demo_state import DemoState, DeviceState, Event

PLAIN_EVERY_S = 3.0
PRESENCE = {"online": "green", "offline": "red"}
KINDS = {"fault": ("✗", "bold red"), "heal": ("✓", "bold green"), "note": ("·", "dim")}


class View(Protocol):
    """What the show asks of its screen."""

    def update(self) -> None:
        """Show the state as it is now."""

    def abort(self) -> None:
        """Leave the screen in order; there is no verdict."""

    def close(self, verdict: str) -> None:
        """Show the end and the verdict line."""


def _presence(state: DeviceState, gateway_up: bool) -> Text:
    if not gateway_up:
        return Text("? unknown", style="yellow")
    return Text(f"● {state.presence}", style=PRESENCE.get(state.presence, "yellow"))


def _devices(state: DemoState) -> Table:
    table = Table(expand=True, box=None, padding=(0, 1), header_style="dim")
    for title in ("device", "presence upstream", "boot", "read", "arrived", "last values"):
        number = title in ("boot", "read", "arrived")
        table.add_column(title, justify="right" if number else "left", no_wrap=True)
    gateway_known = state.gateway_presence != "offline"
    for device in state.devices.values():
        table.add_row(
            Text(device.name, style="bold" if device.power else "bold dim strike"),
            _presence(device, gateway_known),
            str(device.boot),
            str(device.told),
            str(device.arrived),
            "  ".join(device.values.values()),
        )
    return table


def _box(name: str, up: bool, detail: str) -> Text:
    text = Text()
    text.append(" ● " if up else " ✗ ", style="green" if up else "bold red")
    text.append(name, style="bold" if up else "bold red")
    text.append(f"  {detail}", style="dim")
    return text


def _chain(state: DemoState) -> Table:
    table = Table.grid(expand=True)
    for _ in range(3):
        table.add_column(ratio=1)
    powered = sum(device.power for device in state.devices.values())
    told = sum(device.told for device in state.devices.values())
    depth = "outbox ?" if state.depth is None else f"outbox {state.depth}"
    table.add_row(
        _box(f"{powered} boards", powered == len(state.devices), f"{told} readings"),
        _box("gateway", state.gateway_up, depth),
        _box("Mosquitto", state.upstream_up, f"{state.arrived} in, {state.at_qos_2} at QoS 2"),
    )
    return table


def _story(events: list[Event]) -> Text:
    text = Text()
    for event in events:
        mark, style = KINDS[event.kind]
        text.append(f"{event.at_s:5.1f} s ", style="dim")
        text.append(f"{mark} {event.text}\n", style=style)
    return text


def picture(state: DemoState, verdict: str = "") -> RenderableType:
    """Return the whole picture for rich to draw."""
    with state.lock:
        done = min(state.now_s, state.length_s)
        parts: list[RenderableType] = [
            _chain(state),
            Text(),
            _devices(state),
            Text(),
            _story(list(state.story)),
        ]
        if verdict:
            parts.append(Text(verdict, style="bold green" if "PASS" in verdict else "bold red"))
        elif not state.frozen:
            parts.append(ProgressBar(total=max(1.0, state.length_s), completed=done))
        subtitle = "" if state.frozen else "Ctrl-C stops it all"
        return Panel(Group(*parts), title="Tidegate", subtitle=subtitle)


class LiveView:
    """The picture, redrawn in place."""

    def __init__(self, state: DemoState) -> None:
        self._state = state
        self._console = Console()
        self._live = Live(
            picture(state), console=self._console, auto_refresh=False, transient=True
        )
        self._live.start()

    def update(self) -> None:
        """Draw the state as it is now."""
        self._live.update(picture(self._state), refresh=True)

    def abort(self) -> None:
        """Leave the last picture on the screen."""
        self._live.stop()
        self._console.print(picture(self._state))

    def close(self, verdict: str) -> None:
        """Leave the last picture on the screen, and the verdict as a line of its own."""
        self._live.stop()
        self._console.print(picture(self._state))
        print(verdict, flush=True)


class PlainView:
    """Lines: each event as it happens, and now and then how far it is."""

    def __init__(self, state: DemoState) -> None:
        self._state = state
        self._shown = 0
        self._next_s = 0.0

    def update(self) -> None:
        """Print what is new."""
        with self._state.lock:
            news = self._state.events[self._shown :]
            self._shown += len(news)
            for event in news:
                print(f"{event.at_s:5.1f} s  {event.text}")
            if time.monotonic() >= self._next_s:
                self._next_s = time.monotonic() + PLAIN_EVERY_S
                print(plain_line(self._state))
        sys.stdout.flush()

    def abort(self) -> None:
        """Print what is new."""
        self.update()

    def close(self, verdict: str) -> None:
        """Print the verdict line."""
        self.update()
        print(verdict, flush=True)


def plain_line(state: DemoState) -> str:
    """Return the state in one line."""
    devices = "; ".join(
        f"{device.name} {device.presence if device.power else 'no power'}"
        f" boot {device.boot} seq {device.seq}"
        for device in state.devices.values()
    )
    told = sum(device.told for device in state.devices.values())
    depth = "?" if state.depth is None else str(state.depth)
    return f"{state.now_s:5.1f} s  {devices}; read {told}, outbox {depth}, arrived {state.arrived}"


def save_picture(state: DemoState, verdict: str, file: Path) -> None:
    """Write the last picture as an SVG file."""
    with Path("/dev/null").open("w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=110, file=nowhere, force_terminal=True)
        console.print(picture(state, verdict))
        svg = console.export_svg(title="make demo")
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)  # fonts from elsewhere
    file.write_text(svg, encoding="utf-8")


def choose_view(state: DemoState) -> View:
    """Return the view that fits where the output goes."""
    live = sys.stdout.isatty() and not Console().is_dumb_terminal
    return LiveView(state) if live else PlainView(state)
