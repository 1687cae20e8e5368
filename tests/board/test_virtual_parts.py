"""The firmware's own sensor files read the virtual parts, bit by bit and register by register."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tools import firmware
from tools.virtual import VirtualBoard, World

Make = Callable[..., VirtualBoard]

READ = """
import time
from node import board
from node.settings import load
entry = load()["sensors"][0]
module = __import__("node.sensors." + entry["kind"], None, None, ("",))
try:
    sensor = module.make(entry, board)
except Exception as error:
    print("open", repr(error))
def read():
    for _ in range(5):
        try:
            sensor.start()
            time.sleep_ms(sensor.WARM_MS)
            print("read", sensor.read())
            return
        except Exception as error:
            print("again", repr(error))
            time.sleep_ms(5)
read()
print("end")
"""


def reading(make: Make, world: World, kind: str, **settings: Any) -> tuple[VirtualBoard, str]:
    """Start a board with one sensor; give it and what the sensor's file reads."""
    config = {
        "device": "x",
        "wifi": {"ssid": "s"},
        "gateway": {"host": "h"},
        "sensors": [{"kind": kind, "name": "it", **settings}],
    }
    files = {k: v for k, v in firmware.collect().items() if k not in firmware.AS_SOURCE}
    board = make(READ, files=files, config=config, world=world, heap_kb=160)
    board.wait("^end$", timeout_s=5)
    return board, next((x for x in board.console.lines if x.startswith("read")), "nothing")


I2C = {"scl": 22, "sda": 21}


@pytest.mark.parametrize("kind", ["sht3x", "sht4x"])
def test_sht_is_read(make: Make, kind: str) -> None:
    world = World()
    world.set("it", temperature_c=-12.5, humidity_pct=63.0)
    _, said = reading(make, world, kind, **I2C)
    assert said == "read (-12.5, 63.0)"


def test_scd4x_is_read_once_it_has_a_value(make: Make) -> None:
    world = World()
    world.set("it", co2_ppm=812, temperature_c=23.25, humidity_pct=40.0)
    board, said = reading(make, world, "scd4x", **I2C)
    assert said == "read (812, 23.25, 40.0)"
    assert any("no new value yet" in line for line in board.console.lines)


@pytest.mark.parametrize(
    ("temperature", "pressure", "humidity"),
    [(25.08, 1006.53, 45.0), (-20.0, 870.25, 12.0), (60.5, 1085.0, 98.5)],
)
def test_bme280_is_read(make: Make, temperature: float, pressure: float, humidity: float) -> None:
    world = World()
    world.set("it", temperature_c=temperature, pressure_hpa=pressure, humidity_pct=humidity)
    _, said = reading(make, world, "bme280", **I2C)
    got = [float(number) for number in said[6:-1].split(",")]
    assert got == pytest.approx([temperature, pressure, humidity], abs=0.03)


@pytest.mark.parametrize("raw", [123456, -1, -8000000, 0])
def test_hx711_is_read(make: Make, raw: int) -> None:
    world = World()
    world.set("it", raw=raw)
    _, said = reading(make, world, "hx711", dout=16, sck=17)
    assert said == f"read ({raw}.0,)"


def test_contact_is_read(make: Make) -> None:
    world = World()
    world.set("it", level=1)
    _, said = reading(make, world, "contact", pin=14)
    assert said == "read (True,)"


def test_part_on_another_bus_does_not_answer(make: Make) -> None:
    board = make(
        "from machine import SoftI2C, Pin\n"
        "print('near', SoftI2C(scl=Pin(22), sda=Pin(21)).scan())\n"
        "print('far', SoftI2C(scl=Pin(18), sda=Pin(19)).scan())\n",
        config={"sensors": [{"kind": "sht4x", "name": "it", **I2C}]},
    )
    board.wait(r"^near \[68\]$")
    board.wait(r"^far \[\]$")


def test_part_off_its_wires_is_an_error(make: Make) -> None:
    world = World()
    world.break_sensor("it")
    board, said = reading(make, world, "sht4x", **I2C)
    assert said == "nothing"
    assert any("ENODEV" in line or "19" in line for line in board.console.lines)
