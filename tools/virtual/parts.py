"""The parts wired to a virtual board, played at the level of their bus.

A part answers what the real one would put on the wire, so the drivers that run on the board are
those that run on a real one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from tools.virtual.world import World


class Part:
    """Something on the board's pins; `place` names it in the world, `feels` what it can feel."""

    feels: tuple[str, ...] = ()

    def __init__(self, world: World, place: str, settings: Mapping[str, Any]) -> None:
        self.world, self.place, self.settings = world, place, settings

    def feel(self, quantity: str) -> float:
        """Give a physical quantity at this part; OSError where it is off its wires."""
        if quantity not in self.feels:
            raise ValueError(f"{type(self).__name__}.feels has no {quantity}")
        if self.world.is_broken(self.place):
            raise OSError(110)  # ETIMEDOUT
        return self.world.get(self.place, quantity)


class Dht(Part):
    """DHT11 and DHT22: five bytes, the last the sum of the others."""

    feels = ("temperature_c", "humidity_pct")

    def frame(self) -> bytes:
        """Give what the sensor sends when it is asked."""
        temperature, humidity = self.feel("temperature_c"), self.feel("humidity_pct")
        if self.settings.get("kind") == "dht11":
            data = bytes([round(humidity) & 0xFF, 0, round(temperature) & 0xFF, 0])
        else:
            tenths = round(abs(temperature) * 10) | (0x8000 if temperature < 0 else 0)
            data = round(humidity * 10).to_bytes(2, "big") + tenths.to_bytes(2, "big")
        return data + bytes([sum(data) & 0xFF])


class Analog(Part):
    """A voltage on an ADC pin."""

    feels = ("voltage_v",)

    def microvolts(self) -> int:
        """Give the voltage [µV]."""
        return max(0, round(self.feel("voltage_v") * 1_000_000))


class Digital(Part):
    """A contact or a motion sensor: a level on a pin."""

    feels = ("level",)

    def level(self) -> int:
        """Give the pin's level."""
        return int(self.feel("level") != 0)


def crc8(data: bytes) -> int:
    """Give the check byte of 1-Wire."""
    crc = 0
    for byte in data:
        for bit in range(8):
            low = (crc ^ byte >> bit) & 1
            crc = crc >> 1 ^ (0x8C if low else 0)
    return crc


class Ds18b20(Part):
    """A thermometer on a 1-Wire bus, with a ROM code of its own."""

    feels = ("temperature_c",)

    def __init__(self, world: World, place: str, settings: Mapping[str, Any]) -> None:
        super().__init__(world, place, settings)
        asked = settings.get("rom")
        if asked:
            self.rom = bytes.fromhex(str(asked))
        else:
            head = b"\x28" + hashlib.sha256(place.encode()).digest()[:6]
            self.rom = head + bytes([crc8(head)])
        self._raw = 85 * 16  # what it says before its first conversion

    @property
    def present(self) -> bool:
        """Say whether it answers a reset."""
        return not self.world.is_broken(self.place)

    def convert(self) -> None:
        """Measure."""
        self._raw = round(self.feel("temperature_c") * 16)

    def scratchpad(self) -> bytes:
        """Give the nine bytes of its memory."""
        data = (self._raw & 0xFFFF).to_bytes(2, "little") + b"\x4b\x46\x7f\xff\x0c\x10"
        return data + bytes([crc8(data)])


class OneWireBus:
    """A 1-Wire line, slot by slot. State: the bits of a command so far, and who still listens."""

    def __init__(self) -> None:
        self.devices: list[Ds18b20] = []
        self._listening: list[Ds18b20] = []
        self._state = "idle"
        self._bits: list[int] = []
        self._answer: list[int] = []
        self._at = 0

    def request(self, what: str, value: int) -> int:
        """Answer one primitive of the board: reset, rbit, rbyte, wbit, wbyte."""
        if what == "reset":
            self._listening = [device for device in self.devices if device.present]
            self._state, self._bits, self._answer, self._at = "rom", [], [], 0
            return int(bool(self._listening))
        if what == "rbit":
            return self._read()
        if what == "rbyte":
            return sum(self._read() << bit for bit in range(8))
        for bit in range(1 if what == "wbit" else 8):
            self._write(value >> bit & 1)
        return 0

    def _rom_bit(self, device: Ds18b20, at: int) -> int:
        return device.rom[at >> 3] >> (at & 7) & 1

    def _read(self) -> int:
        if self._state == "search":
            bits = {self._rom_bit(device, self._at >> 1) for device in self._listening}
            plain = self._at & 1 == 0
            self._at += 1
            # Wired AND: one device with a 0 pulls the line low.
            return int(bits <= {1}) if plain else int(bits <= {0})
        return self._answer.pop(0) if self._answer else 1

    def _write(self, bit: int) -> None:
        if self._state == "search":
            at = (self._at >> 1) - 1
            self._listening = [d for d in self._listening if self._rom_bit(d, at) == bit]
            return
        self._bits.append(bit)
        if self._state == "match" and len(self._bits) == 64:
            rom = self._take()
            self._listening = [device for device in self._listening if device.rom == rom]
            self._state = "function"
        elif self._state in ("rom", "function") and len(self._bits) == 8:
            self._command(self._take()[0])

    def _take(self) -> bytes:
        value = sum(bit << at for at, bit in enumerate(self._bits))
        size = len(self._bits) // 8
        self._bits = []
        return value.to_bytes(size, "little")

    def _command(self, code: int) -> None:
        if self._state == "rom":
            self._state = {0xF0: "search", 0x55: "match", 0xCC: "function"}.get(code, "idle")
        elif code == 0x44:
            for device in self._listening:
                device.convert()
        elif code == 0xBE and self._listening:
            pads = [device.scratchpad() for device in self._listening]
            data = bytes(a & b for a, b in zip(pads[0], pads[-1], strict=True))
            self._answer = [byte >> bit & 1 for byte in data for bit in range(8)]


class I2cPart(Part):
    """A part on an I²C bus. `address`: the settings', or what it answers at from the factory."""

    default_address = 0

    def __init__(self, world: World, place: str, settings: Mapping[str, Any]) -> None:
        super().__init__(world, place, settings)
        self.address = int(settings.get("address", self.default_address))
        self.bus = (settings.get("scl"), settings.get("sda"))

    def write(self, data: bytes) -> None:
        """Take what the board writes to it; OSError where it does not acknowledge."""
        raise NotImplementedError

    def read(self, count: int) -> bytes:
        """Give what the board reads from it."""
        raise NotImplementedError


class PinPart(Part):
    """A part on several plain pins, `pins`."""

    pins: tuple[int, ...] = ()

    def drive(self, pin: int, level: int) -> None:
        """Take a level that the board puts on a pin."""

    def level(self, pin: int) -> int:
        """Give the level that this part puts on a pin."""
        raise NotImplementedError
