"""How much heap the firmware needs, measured on the virtual board (32-bit where it can be).

The board's network is AT_ONCE: the sockets of another are one more stand-in, with its own names.
The stand-ins and umqtt, which cost a real image no heap, are measured on a board without the
firmware and taken off. What is left is the firmware with its ring and its sensors.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tools import firmware
from tools.board_errors import LinkError
from tools.virtual import NotSaidError, VirtualBoard
from tools.virtual.network import AT_ONCE

SENSORS: tuple[dict[str, Any], ...] = (
    {"kind": "dht22", "name": "air", "pin": 4, "period_s": 0.5},
    {"kind": "adc", "name": "soil", "pin": 34, "period_s": 0.1},
    {"kind": "ds18b20", "name": "water", "pin": 5, "period_s": 1},
    {"kind": "adc", "name": "battery", "pin": 35, "period_s": 0.1},
)
BUDGETS_KB = {4: 45, 2: 36}  # sensors: the most heap that the firmware may need with them
BUILT_IN = ["machine", "network", "esp32", "socket", "umqtt.simple"]
DRIVERS = {"dht22": ["dht"], "ds18b20": ["onewire", "ds18x20"], "adc": []}
LOOKS = 5  # health records to wait for; the firmware writes down its least free heap
LOOK_S = 15.0  # the longest to wait for one
ROOM_KB = 160


class HeapError(LinkError):
    """The firmware did not run long enough to be measured."""


@dataclass(frozen=True)
class Need:
    """What one configuration needs [bytes]. heap_kb: of the board it was measured on."""

    sensors: int
    stand_ins: int
    firmware: int
    heap_kb: int


def _settings(sensors: Sequence[dict[str, Any]]) -> dict[str, Any]:
    return {
        "device": "heap",
        "wifi": {"ssid": "lab", "password": "secret"},
        # Nobody listens there: the ring fills, which is when most heap is used.
        "gateway": {"host": "127.0.0.1", "port": 9},
        "sensors": list(sensors),
        "hold_ms": 100,
        "health_s": 1,
        "led": {"pin": 2},  # provisioning sets these two: nearly every board has them
        "button": {"pin": 0},
    }


def _stand_ins(folder: Path, sensors: Sequence[dict[str, Any]]) -> int:
    """Measure what the stand-ins take."""
    modules = BUILT_IN + [name for sensor in sensors for name in DRIVERS[sensor["kind"]]]
    main = "\n".join([f"import {name}" for name in modules])
    main += "\nimport gc\ngc.collect()\nprint('taken', gc.mem_alloc())\n"
    image = folder / "bare.img"
    with VirtualBoard(
        image=image, files={"main.py": main.encode()}, config=_settings(sensors),
        heap_kb=ROOM_KB, network=AT_ONCE,
    ) as board:
        return int(board.wait(r"^taken (\d+)")[1])


def _lowest(folder: Path, sensors: Sequence[dict[str, Any]], heap_kb: int) -> tuple[int, int]:
    """Run the firmware; gives the heap's size and the least that was free [bytes]."""
    image = folder / f"firmware-{heap_kb}.img"
    with VirtualBoard(
        image=image, files=firmware.FOLDER, config=_settings(sensors), heap_kb=heap_kb,
        network=AT_ONCE,
    ) as board:
        mark, low = 0, 0
        for _ in range(LOOKS):
            low = int(board.wait(r"^heap low (\d+)", timeout_s=LOOK_S, after=mark)[1])
            mark = board.console.mark()
        return board.heap_total, low


def measure(sensors: int) -> Need:
    """Measure the firmware with the first `sensors` of SENSORS. Raises HeapError."""
    fitted = SENSORS[:sensors]
    with tempfile.TemporaryDirectory(prefix="tidegate-heap-") as name:
        folder = Path(name)
        try:
            stand_ins = _stand_ins(folder, fitted)
            total, low = _lowest(folder, fitted, ROOM_KB)
        except NotSaidError as error:
            raise HeapError(str(error).splitlines()[0]) from error
    return Need(sensors, stand_ins, total - low - stand_ins, ROOM_KB)


def runs_in(sensors: int, budget_kb: int) -> bool:
    """Say whether the firmware runs with `budget_kb` [KiB] for itself, the stand-ins aside."""
    fitted = SENSORS[:sensors]
    with tempfile.TemporaryDirectory(prefix="tidegate-heap-") as name:
        folder = Path(name)
        stand_ins = _stand_ins(folder, fitted)
        heap_kb = budget_kb + -(-stand_ins // 1024)
        try:
            _lowest(folder, fitted, heap_kb)
        except NotSaidError:
            return False
    return True
