"""The gateway as a service: systemd's notifications, a watchdog fed by progress, signals.

sd_notify(3) is one datagram; the dozen lines here spare a dependency on libsystemd's bindings,
which have to be compiled on a Pi. Outside systemd all of it does nothing.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from pathlib import Path
from typing import Any

from gateway import config as config_file
from gateway.bridge import Bridge
from gateway.config import Config
from gateway.errors import TidegateError
from gateway.health import Health
from gateway.http import HttpServer
from gateway.log import tell_held_back
from gateway.panel import Panel
from gateway.reload import reload
from gateway.watch import Beat

log = logging.getLogger("tidegate.service")

STATUS_S = 5.0
BEAT_S = 5.0  # without a watchdog
STOPPED_BY_HAND = 3  # the unit does not start it again then


class Notify:
    """sd_notify(3). Texts are `NAME=value` lines."""

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        if self._address.startswith("@"):  # abstract
            self._address = "\0" + self._address[1:]
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)

    def __call__(self, *lines: str) -> None:
        if self._address:
            try:
                self._socket.sendto("\n".join(lines).encode(), self._address)
            except OSError as error:
                log.warning("cannot notify systemd reason=%s", error)


def watchdog_s() -> float | None:
    """How often systemd wants to hear of us, at the latest [s]; None where it does not."""
    if os.environ.get("WATCHDOG_PID") not in (None, str(os.getpid())):
        return None
    micros = os.environ.get("WATCHDOG_USEC", "")
    return int(micros) / 1e6 if micros.isdigit() and int(micros) else None


class Service:
    """One gateway from start to stop."""

    def __init__(self, path: Path, config: Config) -> None:
        self._path, self._config = path, config
        self._notify = Notify()
        self._limit_s = watchdog_s()
        self._stop = asyncio.Event()
        self.reloads = 0
        self.exit_code = 0

    async def run(self) -> None:
        """Until SIGTERM or SIGINT; SIGHUP reloads."""
        loop = asyncio.get_running_loop()
        self._notify("STATUS=opening the outbox")
        bridge = Bridge(self._config)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._reload, bridge)
        beat = Beat(bridge.committer, self._limit_s / 4 if self._limit_s else BEAT_S)
        health = Health(bridge, beat)
        http = HttpServer(self._config.http, bridge.status, health)
        panel = None if self._config.panel is None else Panel(self._config.panel,
                                                                 self._stopped_by_hand)
        await bridge.open()
        await http.open()
        self._notify("READY=1", f"STATUS={status_line(bridge)}")
        jobs: list[asyncio.Task[Any]] = [
            loop.create_task(bridge.run()), loop.create_task(self._stop.wait()),
            loop.create_task(beat.run(self._fed)), loop.create_task(self._tell(bridge))]
        if panel is not None:
            jobs.append(loop.create_task(panel.run(bridge.status, health)))
        done, _ = await asyncio.wait(jobs, return_when=asyncio.FIRST_COMPLETED)
        self._notify("STOPPING=1", "STATUS=writing what was taken")
        http.close()
        if panel is not None:
            panel.close()
        await bridge.close()
        for job in jobs:
            job.cancel()
        for job in done:
            if not job.cancelled():
                job.result()

    def _stopped_by_hand(self) -> None:
        self.exit_code = STOPPED_BY_HAND
        self._stop.set()

    def _fed(self) -> None:
        if self._limit_s:
            self._notify("WATCHDOG=1")

    async def _tell(self, bridge: Bridge) -> None:
        while True:
            await asyncio.sleep(STATUS_S)
            self._notify(f"STATUS={status_line(bridge)}")
            tell_held_back()

    def _reload(self, bridge: Bridge) -> None:
        self._notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")
        try:
            waiting = reload(bridge, config_file.load(self._path))
        except TidegateError as error:
            log.error("not reloaded, all stays as it was reason=%r", str(error))
        else:
            self.reloads += 1
            log.info("reloaded path=%s routes=%d", self._path, len(bridge.config.route))
            if waiting:
                log.warning("changed, but only a restart makes it so settings=%s",
                            ",".join(waiting))
        self._notify("READY=1", f"STATUS={status_line(bridge)}")


def status_line(bridge: Bridge) -> str:
    """What `systemctl status` shows."""
    status = bridge.status()
    disk = "" if status["disk"] == "ok" else f"; disk: {status['disk']}"
    return (f"upstream {status['upstream']}; {status['depth']} waiting; "
            f"{status['connected_devices']} devices{disk}")
