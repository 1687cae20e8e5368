"""The demo's three boards: real firmware on virtual boards, in a day that lasts a minute.

The values are synthetic: a day's curve for each quantity, run through in `DAY_S`. They are what
the sensors feel; what is counted is what the firmware made of them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tools.ports import HOST
from tools.virtual.board import VirtualBoard
from tools.virtual.world import World

FIRMWARE = Path(__file__).resolve().parent.parent / "device"
DAY_S = 60.0
WIFI = {"ssid": "demo", "password": "not-a-secret"}
SOIL = {"value": "moisture_pct", "unit": "%", "points": [[2.8, 0], [1.2, 100]], "digits": 1}
BATTERY = {"value": "battery_v", "unit": "V", "scale": 2, "digits": 2}

SENSORS: Mapping[str, list[dict[str, Any]]] = {
    "greenhouse": [
        {"kind": "dht22", "name": "air", "pin": 4, "period_s": 2},
        {"kind": "adc", "name": "soil", "pin": 34, "period_s": 1, **SOIL},
    ],
    "boiler": [{"kind": "ds18b20", "name": "flow", "pin": 5, "period_s": 1}],
    "weather": [
        {"kind": "dht22", "name": "air", "pin": 4, "period_s": 2},
        {"kind": "adc", "name": "supply", "pin": 34, "period_s": 1, **BATTERY},
    ],
}
NAMES = list(SENSORS)


def day(low: float, high: float, *, peak: float = 0.6) -> Callable[[], float]:
    """Return a quantity that swings between low and high; peak: when in the day, 0 to 1."""
    start_s = time.monotonic()

    def now() -> float:
        phase = (time.monotonic() - start_s) / DAY_S - peak
        return low + (high - low) * (1 + math.cos(2 * math.pi * phase)) / 2

    return now


def make_world(name: str) -> World:
    """Return what a board's sensors feel."""
    world = World()
    if name == "greenhouse":
        world.set("air", temperature_c=day(14, 31), humidity_pct=day(48, 88, peak=0.1))
        world.set("soil", voltage_v=day(1.5, 2.4, peak=0.9))
    elif name == "boiler":
        world.set("flow", temperature_c=day(38, 67, peak=0.3))
    else:
        world.set("air", temperature_c=day(-3, 9), humidity_pct=day(60, 97, peak=0.1))
        world.set("supply", voltage_v=day(1.75, 2.05))
    return world


def settings(name: str, gateway_port: int) -> dict[str, Any]:
    """Return a board's /config.json."""
    return {
        "device": name,
        "board": "virtual",
        "wifi": WIFI,
        "gateway": {"host": HOST, "port": gateway_port, "keepalive_s": 5, "retry_max_s": 2},
        "hold_ms": 300,
        "tell": True,
        "sensors": SENSORS[name],
    }


class DemoBoard:
    """A virtual board as the show handles it."""

    def __init__(
        self, name: str, gateway_port: int, folder: Path, on_line: Callable[[str], None]
    ) -> None:
        self.name = name
        self.last_line = ""
        folder.mkdir(parents=True)
        self._log = (folder / "console.log").open("w", encoding="utf-8", buffering=1)
        self._tell = on_line
        self._board = VirtualBoard(
            image=folder / "flash.img",
            files=FIRMWARE,
            config=settings(name, gateway_port),
            world=make_world(name),
            on_line=self._line,
        )
        self._started = False

    def _line(self, line: str) -> None:
        self._log.write(line + "\n")
        self.last_line = line
        self._tell(line)

    def power_on(self) -> None:
        """Give it power; the first time its flash is written before."""
        if self._started:
            self._board.power_on()
        else:
            self._started = True
            self._board.start()

    def power_off(self) -> None:
        """Cut its power at once."""
        self._board.power_cut()

    def close(self) -> None:
        """End it for good."""
        self._board.stop()
        self._log.close()


make_board = DemoBoard
