"""What the chips of the ESP32 family forbid: which pins there are and which are spoken for.

Source: the pin lists and the strapping sections of Espressif's datasheets.
"""

from __future__ import annotations

from dataclasses import dataclass


def _pins(text: str) -> frozenset[int]:
    found: set[int] = set()
    for part in text.split(","):
        if part:
            first, _, last = part.partition("-")
            found.update(range(int(first), int(last or first) + 1))
    return frozenset(found)


@dataclass(frozen=True)
class Chip:
    """GPIO numbers: all there are; behind the flash; read at reset; inputs only; of the USB port.

    id: esptool's name for it. loader_at: where its image begins in flash [bytes].
    """

    id: str
    gpios: frozenset[int]
    flash: frozenset[int]
    strapping: frozenset[int]
    input_only: frozenset[int]
    usb: frozenset[int]
    loader_at: int


CHIPS = {
    chip.id: chip
    for chip in (
        Chip(
            "esp32",
            _pins("0-19,21-23,25-27,32-39"),
            _pins("6-11"),
            _pins("0,2,5,12,15"),
            _pins("34-39"),
            _pins(""),
            0x1000,
        ),
        Chip(
            "esp32s2",
            _pins("0-21,26-46"),
            _pins("26-32"),
            _pins("0,45,46"),
            _pins("46"),
            _pins("19,20"),
            0x1000,
        ),
        Chip(
            "esp32s3",
            _pins("0-21,26-48"),
            _pins("26-32"),
            _pins("0,3,45,46"),
            _pins(""),
            _pins("19,20"),
            0,
        ),
        Chip(
            "esp32c3", _pins("0-21"), _pins("11-17"), _pins("2,8,9"), _pins(""), _pins("18,19"), 0
        ),
        Chip(
            "esp32c6",
            _pins("0-30"),
            _pins("24-30"),
            _pins("4,5,8,9,15"),
            _pins(""),
            _pins("12,13"),
            0,
        ),
    )
}
