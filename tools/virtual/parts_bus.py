"""Parts with registers, commands or a clock line: I²C sensors and the HX711, by datasheet."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

from tools.virtual.parts import I2cPart, PinPart
from tools.virtual.world import World

EIO = 5


def sensirion_word(value: int) -> bytes:
    """Give 16 bits and their check byte (polynomial 0x31, begins with 0xFF)."""
    data = max(0, min(0xFFFF, value)).to_bytes(2, "big")
    crc = 0xFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 0x31 if crc & 0x80 else crc << 1) & 0xFF
    return data + bytes([crc])


def sensirion_temperature(temperature_c: float) -> int:
    """Give the word for a temperature [°C], of all their humidity sensors."""
    return round((temperature_c + 45) * 65535 / 175)


class Sensirion(I2cPart):
    """Takes a command, then gives the words that it asked for, once."""

    default_address = 0x44

    def __init__(self, world: World, place: str, settings: Mapping[str, Any]) -> None:
        super().__init__(world, place, settings)
        self._words: list[int] | None = None

    def commands(self) -> Mapping[bytes, Callable[[], list[int]]]:
        """Give what each command leads to."""
        raise NotImplementedError

    def write(self, data: bytes) -> None:
        """Take a command; one that it does not know is not acknowledged."""
        answer = self.commands().get(data)
        if answer is None:
            raise OSError(EIO)
        self._words = answer()

    def read(self, count: int) -> bytes:
        """Give the words; without a command before it there is no acknowledgement."""
        if not self._words:
            raise OSError(EIO)
        words, self._words = self._words, None
        return b"".join(map(sensirion_word, words))[:count].ljust(count, b"\xff")


class Sht3x(Sensirion):
    """SHT30, 31, 35."""

    feels = ("temperature_c", "humidity_pct")

    def commands(self) -> Mapping[bytes, Callable[[], list[int]]]:
        """One measurement at three repeatabilities; the soft reset."""
        return {
            b"\x24\x00": self._measure,
            b"\x24\x0b": self._measure,
            b"\x24\x16": self._measure,
            b"\x30\xa2": list,
        }

    def _measure(self) -> list[int]:
        humidity = round(self.feel("humidity_pct") * 65535 / 100)
        return [sensirion_temperature(self.feel("temperature_c")), humidity]


class Sht4x(Sensirion):
    """SHT40, 41, 45."""

    feels = ("temperature_c", "humidity_pct")

    def commands(self) -> Mapping[bytes, Callable[[], list[int]]]:
        """One measurement at three precisions; the soft reset."""
        return {b"\xfd": self._measure, b"\xf6": self._measure, b"\xe0": self._measure,
                b"\x94": list}  # fmt: skip

    def _measure(self) -> list[int]:
        humidity = round((self.feel("humidity_pct") + 6) * 65535 / 125)
        return [sensirion_temperature(self.feel("temperature_c")), humidity]


class Scd4x(Sensirion):
    """SCD40, 41: measures from the command that begins it; takes no other meanwhile."""

    feels = ("co2_ppm", "temperature_c", "humidity_pct")

    default_address = 0x62

    def __init__(self, world: World, place: str, settings: Mapping[str, Any]) -> None:
        super().__init__(world, place, settings)
        self._measures = False
        self._asked = 0

    def commands(self) -> Mapping[bytes, Callable[[], list[int]]]:
        """Give those it takes in its present state."""
        if not self._measures:
            return {b"\x21\xb1": self._begin, b"\xe4\xb8": lambda: [0x8000]}
        return {b"\xe4\xb8": self._ready, b"\xec\x05": self._values, b"\x3f\x86": self._end}

    def _begin(self) -> list[int]:
        self._measures, self._asked = True, 0
        return []

    def _end(self) -> list[int]:
        self._measures = False
        return []

    def _ready(self) -> list[int]:
        self._asked += 1  # not yet at the first question
        return [0x8006 if self._asked > 1 else 0x8000]

    def _values(self) -> list[int]:
        return [
            round(self.feel("co2_ppm")),
            sensirion_temperature(self.feel("temperature_c")),
            round(self.feel("humidity_pct") * 65535 / 100),
        ]


def solve(rises: Callable[[int], float], want: float, bits: int) -> int:
    """Give the raw number of `bits` bits whose value, which rises with it, comes nearest."""
    low, high = 0, (1 << bits) - 1
    while low < high:
        middle = (low + high) // 2
        if rises(middle) < want:
            low = middle + 1
        else:
            high = middle
    return low


class Bme280(I2cPart):
    """BME280: registers with its calibration; a forced measurement fills the data registers.

    The calibration is the example of the BMP280's datasheet, and a common one for humidity.
    """

    feels = ("temperature_c", "pressure_hpa", "humidity_pct")

    default_address = 0x76
    T = (27504, 26435, -1000)
    P = (36477, -10685, 3024, 2855, 140, -7, 15500, -14600, 6000)
    H = (75, 363, 0, 315, 50, 30)

    def __init__(self, world: World, place: str, settings: Mapping[str, Any]) -> None:
        super().__init__(world, place, settings)
        self.registers = bytearray(256)
        self._at = 0
        self.registers[0xD0] = 0x60
        self.registers[0x88:0x8E] = struct.pack("<Hhh", *self.T)
        self.registers[0x8E:0xA0] = struct.pack("<Hhhhhhhhh", *self.P)
        h1, h2, h3, h4, h5, h6 = self.H
        self.registers[0xA1] = h1
        self.registers[0xE1:0xE8] = struct.pack(
            "<hBBBBb", h2, h3, h4 >> 4, (h4 & 15) | (h5 & 15) << 4, h5 >> 4, h6
        )

    def write(self, data: bytes) -> None:
        """Set the register pointer, and registers from there on."""
        self._at = data[0]
        for offset, byte in enumerate(data[1:]):
            self.registers[self._at + offset & 0xFF] = byte
        if len(data) > 1 and self._at == 0xF4 and data[1] & 3 in (1, 2):
            self._measure()

    def read(self, count: int) -> bytes:
        """Give registers from the pointer on."""
        return bytes(self.registers[self._at + offset & 0xFF] for offset in range(count))

    def _measure(self) -> None:
        temperature = solve(lambda raw: self._fine(raw) / 5120, self.feel("temperature_c"), 20)
        fine = self._fine(temperature)
        hectopascals = self.feel("pressure_hpa")
        # Pressure falls as its raw number rises.
        pressure = solve(lambda raw: -self._pascals(raw, fine), -hectopascals * 100, 20)
        humidity = 0x8000
        if self.registers[0xF2] & 7:
            humidity = solve(lambda raw: self._percent(raw, fine), self.feel("humidity_pct"), 16)
        self.registers[0xF7:0xFF] = (
            (pressure << 4).to_bytes(3, "big")
            + (temperature << 4).to_bytes(3, "big")
            + humidity.to_bytes(2, "big")
        )

    def _fine(self, raw: int) -> float:
        """Do the datasheet's t_fine."""
        t1, t2, t3 = self.T
        one = (raw / 16384.0 - t1 / 1024.0) * t2
        two = (raw / 131072.0 - t1 / 8192.0) ** 2 * t3
        return one + two

    def _pascals(self, raw: int, fine: float) -> float:
        """Do the datasheet's compensation of pressure."""
        p1, p2, p3, p4, p5, p6, p7, p8, p9 = self.P
        var1 = fine / 2.0 - 64000.0
        var2 = var1 * var1 * p6 / 32768.0
        var2 = var2 + var1 * p5 * 2.0
        var2 = var2 / 4.0 + p4 * 65536.0
        var1 = (p3 * var1 * var1 / 524288.0 + p2 * var1) / 524288.0
        var1 = (1.0 + var1 / 32768.0) * p1
        p = (1048576.0 - raw - var2 / 4096.0) * 6250.0 / var1
        return p + (p9 * p * p / 2147483648.0 + p * p8 / 32768.0 + p7) / 16.0

    def _percent(self, raw: int, fine: float) -> float:
        """Do the datasheet's compensation of humidity."""
        h1, h2, h3, h4, h5, h6 = self.H
        h = fine - 76800.0
        h = (raw - (h4 * 64.0 + h5 / 16384.0 * h)) * (
            h2 / 65536.0 * (1.0 + h6 / 67108864.0 * h * (1.0 + h3 / 67108864.0 * h))
        )
        return h * (1.0 - h1 * h / 524288.0)


class Hx711(PinPart):
    """HX711: data falls when a value is ready; a clock pulse shifts a bit out, the 25th ends it.

    What it weighs is the world's `raw`, the number it would give.
    """

    feels = ("raw",)

    def __init__(self, world: World, place: str, settings: Mapping[str, Any]) -> None:
        super().__init__(world, place, settings)
        self.pins = (int(settings["dout"]), int(settings["sck"]))
        self._clock = self._pulses = 0
        self._shown = 0

    def drive(self, pin: int, level: int) -> None:
        """Take the clock line."""
        if pin != self.pins[1]:
            return
        if level and not self._clock:
            if self._pulses == 0:
                self._shown = round(self.feel("raw")) & 0xFFFFFF
            self._pulses += 1
            if self._pulses == 25:
                self._pulses = 0
        self._clock = level

    def level(self, pin: int) -> int:
        """Give the data line: low when ready, then the bit that was shifted out."""
        if pin != self.pins[0] or self.world.is_broken(self.place):
            return 1
        return self._shown >> (24 - self._pulses) & 1 if self._pulses else 0
