"""What carries messages from the devices' port to the upstream: Tidegate, or what it is held to.

All have start, stop, kill, signal, port, running and depth.
"""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import Protocol

from tools.contestants import MosquittoBridge
from tools.gateway_process import PROJECT, Gateway
from tools.hil.scenario import GatewaySettings
from tools.ports import HOST, wait_for_port
from tools.procs import Child


class Carrier(Protocol):
    """What the bench does with whatever carries the messages."""

    port: int
    child: Child

    def start(self) -> None:
        """Start it and wait until it listens."""

    def depth(self) -> int | None:
        """How many messages it holds; None where nobody can say."""


class Tidegate(Gateway):
    """The gateway. fault, disk: see tools.faulty_gateway. `clock` holds its clock's offset."""

    def __init__(self, folder: Path, upstream_port: int, settings: GatewaySettings, *,
                 fault: str = "", disk: str = "", port: int = 0) -> None:
        super().__init__(folder, upstream_port, name="hil")
        self.clock = folder / "clock"
        self.port = port or self.port
        inflight = f"inflight = {settings.inflight}\n" if settings.inflight else ""
        self._text = (
            f'id = "hil"\n[listener]\nlisten = "{HOST}:{self.port}"\n'
            f"will_grace_s = {settings.will_grace_s}\n"
            f'[upstream]\nurl = "mqtt://{HOST}:{upstream_port}"\n{inflight}'
            f'[[route]]\nfilter = "#"\nupgrade = {settings.upgrade}\n')
        argv = [sys.executable, "-m", "tools.hil.clocked_gateway", "run", "-c", str(self.config)]
        env = {"TIDEGATE_FAULT": fault, "TIDEGATE_DISK": disk,
               "TIDEGATE_CLOCK": str(self.clock)}
        self.child = Child(argv, log=folder / "gateway.log", env=env, cwd=PROJECT)
        folder.mkdir(parents=True, exist_ok=True)
        self.set_clock(settings.clock_offset_s)

    def set_clock(self, offset_s: float) -> None:
        """Let its wall clock be so wrong [s] from now on."""
        new = self.clock.with_suffix(".new")
        new.write_text(str(offset_s))
        new.rename(self.clock)

    def depth(self) -> int | None:
        """How many messages wait in its outbox."""
        status = self.status() if self.running else None
        return None if status is None else status.get("depth")


class Bridge:
    """Mosquitto with its persistence, as the local broker and as the bridge."""

    def __init__(self, folder: Path, upstream_port: int, settings: GatewaySettings) -> None:
        self._contestant = MosquittoBridge(folder, upstream_port, settings.upgrade)
        self.port = self._contestant.port
        self.child: Child = Child([], log=folder / "mosquitto.log")

    def start(self) -> None:
        """Start it and wait until it listens."""
        if self._contestant.children:
            self.child.start()
            wait_for_port(self.port, 15, alive=lambda: self.child.running)
        else:
            self._contestant.start()
            self.child = self._contestant.children[0]

    def depth(self) -> int | None:
        """Say nothing: it does not tell."""
        return None


def pause(child: Child, paused: bool) -> None:
    """Stop a process as SIGSTOP does, or let it go on."""
    child.signal(signal.SIGSTOP if paused else signal.SIGCONT)
