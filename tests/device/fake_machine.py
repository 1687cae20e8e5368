"""A board's `machine` for CPython, whose parts the test sets; and sensors made on it."""

from __future__ import annotations

import importlib
from types import SimpleNamespace
from typing import Any, ClassVar


class Pin:
    """A pin whose level the test sets."""

    IN, OUT, PULL_UP, IRQ_FALLING = 1, 3, 2, 2
    levels: ClassVar[dict[int, int]] = {}

    def __init__(self, number: int, *_: Any, value: int | None = None) -> None:
        self.number = number

    def value(self, level: int | None = None) -> int:
        if level is not None:
            self.levels[self.number] = level
        return self.levels.get(self.number, 0)

    def irq(self, handler: Any, _trigger: int) -> None:
        self.handler = handler


class Bus:
    """An I2C bus with one part: a function from what was written to what is read."""

    part: Any = None

    def __init__(self, **_: Any) -> None:
        self.written = b""

    def writeto(self, address: int, data: bytes) -> None:
        assert address == self.part.address
        self.written = bytes(data)

    def readfrom(self, address: int, count: int) -> bytes:
        data: bytes = self.part.answer(self.written)
        assert len(data) == count
        return data

    def readfrom_mem(self, address: int, register: int, count: int) -> bytes:
        return bytes(self.part.registers[register : register + count])

    def writeto_mem(self, address: int, register: int, data: bytes) -> None:
        self.part.registers[register : register + len(data)] = data


class Adc:
    ATTN_11DB = 3
    uv = 0

    def __init__(self, _pin: Pin, atten: int) -> None:
        pass

    def read_uv(self) -> int:
        return self.uv


machine = SimpleNamespace(Pin=Pin, SoftI2C=Bus, ADC=Adc, disable_irq=lambda: 0,
                          enable_irq=lambda _: None)  # fmt: skip


def make(kind: str, esp32: Any = None, **settings: Any) -> Any:
    entry = {"kind": kind, "name": kind, "period_s": 1, **settings}
    board = SimpleNamespace(machine=machine, esp32=esp32)
    return importlib.import_module("node.sensors." + kind).make(entry, board)
