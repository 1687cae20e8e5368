"""The chip of a virtual board, seen from its firmware: pins, buses, NVS, clock memory.

`answer` takes one request that came over the board's wire. Errors are OSError: they are raised
again in the firmware.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from tools.virtual import fitting, parts
from tools.virtual.world import World

NVS_NOT_FOUND = -4354
ENODEV, ETIMEDOUT = 19, 110
RISING, FALLING = 1, 2


class Nvs:
    """Non-volatile storage: what was committed is there after a power cut, the rest is not."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.commits = 0
        self._values: dict[str, dict[str, Any]] = {}
        self.power_up()

    def power_up(self) -> None:
        """Forget what was not committed."""
        self._values = json.loads(self.path.read_text()) if self.path.exists() else {}

    def erase(self) -> None:
        """Make it empty, as erasing the flash does."""
        self._values = {}
        self.path.unlink(missing_ok=True)

    def choose(self, slot: int) -> None:
        """Name the slot that boot.py takes, as `tidegate board deploy` does."""
        self.request("set", "tidegate", "slot", slot)
        self._write()

    def request(self, what: str, space: str, key: str, value: Any) -> Any:
        """Answer the esp32 module."""
        held = self._values.setdefault(space, {})
        if what == "set":
            held[key] = value
        elif what == "commit":
            self._write()
        elif key not in held or (what == "int") != isinstance(held[key], int):
            if what != "erase" or key not in held:
                raise OSError(NVS_NOT_FOUND)
            del held[key]
        elif what == "erase":
            del held[key]
        else:
            return held[key]
        return None

    def _write(self) -> None:
        self.commits += 1
        work = self.path.with_suffix(self.path.suffix + ".new")
        work.write_text(json.dumps(self._values))
        work.replace(self.path)


class Hardware:
    """Everything on the board but its flash, radio and power."""

    def __init__(self, world: World, name: str, nvs: Path) -> None:
        self.world = world
        self.nvs = Nvs(nvs)
        self.unique_id = hashlib.sha256(name.encode()).hexdigest()[:12]
        self.outputs: dict[int, int] = {}
        self.pwm: dict[int, tuple[int, int]] = {}
        self.pixels: dict[int, bytes] = {}
        self._pulls: dict[int, int] = {}
        self._inputs: dict[int, int] = {}
        self._edges: dict[int, int] = {}
        self._pending: list[int] = []
        self._parts: dict[int, parts.Part] = {}
        self._wires: dict[int, parts.OneWireBus] = {}
        self._i2c: list[parts.I2cPart] = []
        self.sensors: dict[str, tuple[str, ...]] = {}  # what each place's can feel
        self.fitted = False  # whether somebody said what is wired to it
        self._rtc_memory = ""
        self._rtc_set: tuple[float, float] | None = None

    def fit(self, sensors: Iterable[Mapping[str, Any]]) -> None:
        """Wire up a part for each sensor of the board's settings that has one."""
        self._parts, self._wires, self._i2c = {}, {}, []
        self.sensors = {}
        for settings in sensors:
            part = fitting.fit(self.world, settings)
            if part is not None:
                self.attach(part, settings.get("pin"))
                self.sensors[part.place] = part.feels
        self.fitted = True

    def fit_as_told(self, settings: str) -> None:
        """Wire up what the settings on the board's flash name: someone provisioned it."""
        try:
            sensors = json.loads(settings).get("sensors", [])
            self.fit([sensor for sensor in sensors if isinstance(sensor, dict)])
        except (ValueError, AttributeError, TypeError):
            pass  # the firmware will say what is wrong with them
        self.fitted = False

    def attach(self, part: parts.Part, pin: int | None = None) -> None:
        """Wire up a part; `pin` is for those that have one."""
        self.fitted = True
        if isinstance(part, parts.I2cPart):
            self._i2c.append(part)
        elif isinstance(part, parts.PinPart):
            self._parts.update(dict.fromkeys(part.pins, part))
        elif isinstance(pin, int) and isinstance(part, parts.Ds18b20):
            self._wires.setdefault(pin, parts.OneWireBus()).devices.append(part)
        elif isinstance(pin, int):
            self._parts[pin] = part

    def power(self, on: bool) -> None:
        """Lose what power holds: outputs, the clock and its memory."""
        if not on:
            self._rtc_memory, self._rtc_set = "", None
        self.reset()
        self.nvs.power_up()

    def reset(self) -> None:
        """Let go of the pins."""
        for held in (self.outputs, self.pwm, self.pixels, self._pulls, self._edges):
            held.clear()
        self._pending.clear()

    def drive(self, pin: int, level: int) -> None:
        """Set the level of an input pin from outside: a button, a contact."""
        before = self._level(pin)
        self._inputs[pin] = level
        edge = RISING if level > before else FALLING if level < before else 0
        if edge & self._edges.get(pin, 0):
            self._pending.append(pin)

    def take_pending(self) -> list[int]:
        """Give the pins whose interrupt handlers the firmware has to call."""
        pending, self._pending = self._pending, []
        return pending

    def _level(self, pin: int) -> int:
        if pin in self.outputs:
            return self.outputs[pin]
        if pin in self._inputs:
            return self._inputs[pin]
        part = self._parts.get(pin)
        if isinstance(part, parts.PinPart):
            return part.level(pin)
        if isinstance(part, parts.Digital):
            return part.level()
        return int(self._pulls.get(pin, -1) == 2)

    def _mode(self, pin: int, mode: int, pull: int) -> None:
        self._pulls[pin] = pull
        if mode not in (3, 7, -1):
            self.outputs.pop(pin, None)

    def _set(self, pin: int, level: int) -> None:
        self.outputs[pin] = level
        part = self._parts.get(pin)
        if isinstance(part, parts.PinPart):
            part.drive(pin, level)

    def _irq(self, pin: int, edges: int) -> None:
        self._edges[pin] = edges

    def _adc(self, pin: int) -> int:
        part = self._parts.get(pin)
        return part.microvolts() if isinstance(part, parts.Analog) else 0

    def _dht(self, pin: int) -> str:
        part = self._parts.get(pin)
        if not isinstance(part, parts.Dht):
            raise OSError(ETIMEDOUT)
        return part.frame().hex()

    def _ow(self, pin: int, what: str, value: int) -> int:
        return self._wires.setdefault(pin, parts.OneWireBus()).request(what, value)

    def _do_i2c(self, bus: list[int], what: str, address: int, data: str, count: int) -> Any:
        there = {
            part.address: part
            for part in self._i2c
            if part.bus in ((None, None), tuple(bus)) and not self.world.is_broken(part.place)
        }
        if what == "scan":
            return sorted(there)
        if address not in there:
            raise OSError(ENODEV)
        if what == "write":
            there[address].write(bytes.fromhex(data))
            return len(data) // 2
        return there[address].read(count).hex()

    def _pwm(self, pin: int, freq: int, duty: int) -> None:
        self.pwm[pin] = (freq, duty)

    def _bits(self, pin: int, data: str) -> None:
        self.pixels[pin] = bytes.fromhex(data)

    def _mem(self, data: str | None) -> str:
        if data is not None:
            if len(data) > 2 * 2048:
                raise OSError("buffer too long")
            self._rtc_memory = data
        return self._rtc_memory

    def _rtc(self, when: list[int] | None) -> list[int]:
        if when is not None:
            year, month, day, _, hour, minute, second, *_ = [*when, 0, 0]
            told = time.mktime((year, month, day, hour, minute, second, 0, 0, 0))
            self._rtc_set = (told, time.monotonic())
        told, since = self._rtc_set or (946684800 + time.timezone, time.monotonic())
        now = time.localtime(told + time.monotonic() - since)
        return [now.tm_year, now.tm_mon, now.tm_mday, now.tm_wday, *now[3:6], 0]

    def answer(self, what: str, words: list[Any]) -> Any:
        """Answer one request; OSError(ENODEV) where this chip has no such thing."""
        doers: dict[str, Callable[..., Any]] = {
            "pin": self._level,
            "set": self._set,
            "mode": self._mode,
            "irq": self._irq,
            "adc": self._adc,
            "dht": self._dht,
            "ow": self._ow,
            "i2c": self._do_i2c,
            "pwm": self._pwm,
            "bits": self._bits,
            "mem": self._mem,
            "rtc": self._rtc,
            "nvs": self.nvs.request,
            "id": lambda: self.unique_id,
            "chip": lambda: self.world.get("chip", "chip_c"),
        }
        doer = doers.get(what)
        if doer is None:
            raise OSError(ENODEV)
        return doer(*words)
