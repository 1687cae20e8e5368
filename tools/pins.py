"""Which pins a device's settings ask for, and whether its board can give them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tools.boards import Board
from tools.chips import CHIPS

PIN_KEYS = ("pin", "scl", "sda", "dout", "sck")  # of a sensor's settings
I2C = ("scl", "sda")
PINS_OF: Mapping[str, tuple[str, ...]] = {
    **dict.fromkeys(("adc", "contact", "dht11", "dht22", "ds18b20", "pir", "pulse"), ("pin",)),
    **dict.fromkeys(("bme280", "scd4x", "sht3x", "sht4x"), I2C),
    "hx711": ("dout", "sck"),
    **dict.fromkeys(("chip", "playback"), ()),
}


@dataclass(frozen=True)
class Use:
    """Who wants a pin: who, the key of its settings, and what it shares the pin with, if any."""

    who: str
    key: str
    pin: Any
    shared: str = ""


def _uses(settings: Mapping[str, Any]) -> list[Use]:
    """List the pins of settings; one that its sensor needs and has not got is None."""
    found = []
    for sensor in settings["sensors"]:
        who, kind = f"sensor {sensor['name']}", sensor["kind"]
        for key in PIN_KEYS:
            if sensor.get(key) is not None or key in PINS_OF.get(kind, ()):
                shared = key if key in I2C else kind if kind == "ds18b20" else ""
                found.append(Use(who, key, sensor.get(key), shared))
    return found + [Use(who, "pin", settings[who]["pin"])
                    for who in ("led", "button") if settings[who]]  # fmt: skip


def _alone(use: Use, board: Board) -> str:
    """Say what is wrong with a pin on its own; empty where it will do."""
    chip = CHIPS[board.chip]
    if type(use.pin) is not int or use.pin not in chip.gpios:
        return f"{board.name} has no such GPIO"
    if use.pin in chip.flash:
        return f"belongs to the flash on {board.name}"
    if use.pin in chip.usb and "usb" in board.features:
        return f"belongs to the USB port on {board.name}"
    if use.pin in chip.input_only and use.who == "led":
        return f"can only be an input on {board.name}"
    if use.pin in chip.input_only and use.who == "button":
        return f"has no pull-up on {board.name}"
    return ""


def fault(settings: Mapping[str, Any], board: Board) -> str:
    """Say in one line what the board cannot give; empty where all is well.

    settings: filled up by the firmware's own rules.
    """
    taken: dict[int, Use] = {}
    for use in _uses(settings):
        if use.pin is None:
            return f"{use.who}: no {use.key}, want the number of its GPIO"
        wrong = _alone(use, board)
        first = use if wrong else taken.setdefault(use.pin, use)
        if first is not use and not (use.shared and use.shared == first.shared):
            wrong = f"taken by {first.who}: {first.key}"
        if wrong:
            return f"{use.who}: {use.key} = {use.pin}: {wrong}"
    return ""
