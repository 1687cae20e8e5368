"""A reserved board in the hands of a test: its console, its power, its access point."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from tools.arrival import told_record
from tools.hil.bench import Entry
from tools.ports import HOST
from tools.verdict import Record
from tools.virtual.board import VirtualBoard
from tools.virtual.console import Console
from tools.virtual.world import World

FIRMWARE = Path(__file__).resolve().parent.parent.parent / "device"
WIFI = {"ssid": "bench", "password": "not-a-secret"}
BROWNOUT_S = 5.0


class Ledger:
    """What a board's console told of: each record and when [ns, monotonic]; the log beside it."""

    def __init__(self, name: str, log: Path) -> None:
        self.name, self.told = name, dict[Record, int]()
        self._lock = threading.Lock()
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log.open("a", encoding="utf-8", buffering=1)
        self._began_s = time.monotonic()

    def line(self, line: str) -> None:
        """Take a console line."""
        with self._lock:
            if self._log.closed:
                return
            self._log.write(f"{time.monotonic() - self._began_s:9.3f} {line}\n")
            record = told_record(self.name, line)
            if record is not None:
                self.told.setdefault(record, time.monotonic_ns())

    def records(self) -> dict[Record, int]:
        """Return what was told so far."""
        with self._lock:
            return dict(self.told)

    def close(self) -> None:
        """Close the log."""
        with self._lock:
            self._log.close()


class Surroundings(Protocol):
    """What a board's sensors feel: a World, or a Feeder of a real board."""

    def set(self, place: str, **quantities: float) -> None:
        """Set quantities of a place, which is a sensor's name."""


class BenchBoard(Protocol):
    """What a scenario does with a board. power_cut, brownout and wifi need those features."""

    name: str
    ledger: Ledger
    console: Console

    @property
    def world(self) -> Surroundings:
        """What its sensors feel."""

    def start(self) -> None:
        """Give it power and listen to its console."""

    def stop(self) -> None:
        """Leave it: a virtual one is gone, a real one keeps its power."""

    def power_on(self) -> None:
        """Give it power."""

    def power_cut(self) -> None:
        """Take its power."""

    def brownout(self) -> None:
        """Take its power in the middle of a flash write."""

    def wifi(self, on: bool) -> None:
        """Switch its access point off or on."""

    @property
    def boots(self) -> int:
        """How often its firmware began, as far as can be seen."""


def settings(name: str, port: int, period_s: float = 0.5, host: str = HOST) -> dict[str, Any]:
    """Return the /config.json of a virtual board: air and soil, told of on the console."""
    return {
        "device": name, "board": "virtual", "wifi": WIFI, "hold_ms": 200, "tell": True,
        "gateway": {"host": host, "port": port, "keepalive_s": 5, "retry_max_s": 2},
        "sensors": [
            {"kind": "dht22", "name": "air", "pin": 4, "period_s": max(2.0, period_s)},
            {"kind": "ds18b20", "name": "flow", "pin": 5, "period_s": max(1.0, period_s)},
            {"kind": "adc", "name": "supply", "pin": 34, "period_s": period_s,
             "value": "battery_v", "unit": "V", "scale": 2, "digits": 2},
        ],
    }


class Virtual:
    """A virtual board of the bench with the firmware in device/."""

    def __init__(self, entry: Entry, folder: Path, port: int, *, world: World | None = None,
                 config: Mapping[str, Any] | None = None, period_s: float = 0.5,
                 host: str = HOST) -> None:
        self.name = entry.name
        self.ledger = Ledger(entry.name, folder / f"{entry.name}.console.log")
        self.world = world or World()
        self.board = VirtualBoard(
            image=folder / f"{entry.name}.img", board=entry.kind, files=FIRMWARE,
            config=config or settings(entry.name, port, period_s, host), world=self.world,
            on_line=self.ledger.line)
        self.console = self.board.console

    def start(self) -> None:
        """Write its flash and give it power."""
        self.board.start()

    def stop(self) -> None:
        """End it; no process is left."""
        self.board.stop()
        self.ledger.close()

    def power_on(self) -> None:
        """Give it power, where it has none."""
        if self.board.pid is None:
            self.board.power_on()

    def power_cut(self) -> None:
        """Take its power at once."""
        self.board.power_cut()

    def brownout(self) -> None:
        """Take its power in the middle of the third flash operation from now."""
        self.board.cut_after(3, part=0.4)
        if not self.board.wait_off(BROWNOUT_S):
            self.board.power_cut()  # it wrote nothing: then between two writes

    def wifi(self, on: bool) -> None:
        """Switch its access point."""
        self.board.wifi(on)

    @property
    def boots(self) -> int:
        """How often its firmware began."""
        return self.board.boots
