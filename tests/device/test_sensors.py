"""Every sensor against a small part that answers as its datasheet says, on CPython."""

from __future__ import annotations

import importlib
import json
import struct
import sys
import time
from itertools import pairwise
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import pytest
from node.sensor import Sampler, Sensor


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


def words(*values: int) -> bytes:
    """Sensirion's words; checksums worked out here on their own."""
    out = b""
    for value in values:
        pair, crc = value.to_bytes(2, "big"), 0xFF
        for byte in pair:
            crc ^= byte
            for _ in range(8):
                crc = (crc << 1 ^ 0x131) if crc & 0x80 else crc << 1
        out += pair + bytes([crc])
    return out


def test_crc_is_that_of_the_datasheet() -> None:
    crc8 = importlib.import_module("node.sensors.sensirion").crc8
    assert crc8(b"\xbe\xef") == 0x92


@pytest.mark.parametrize(
    ("kind", "asked", "low"), [("sht3x", b"\x24\x00", 0), ("sht4x", b"\xfd", 0)]
)
def test_sht_reads_temperature_and_humidity(kind: str, asked: bytes, low: int) -> None:
    Bus.part = SimpleNamespace(
        address=0x44, answer=lambda got: words(0x6666, 0x8000) if got == asked else b""
    )
    sensor = make(kind, scl=22, sda=21)
    sensor.start()
    temperature, humidity = sensor.read()
    assert temperature == pytest.approx(25.0, abs=0.01)
    assert humidity == pytest.approx(50 if kind == "sht3x" else 56.5, abs=0.01)


def test_sht_with_a_wrong_checksum_raises() -> None:
    Bus.part = SimpleNamespace(address=0x44, answer=lambda _: b"\x12\x34\x00" * 2)
    sensor = make("sht4x", scl=22, sda=21)
    sensor.start()
    with pytest.raises(ValueError, match="checksum"):
        sensor.read()


def test_scd4x_waits_for_a_new_value() -> None:
    ready = 0
    seen = []

    def answer(command: bytes) -> bytes:
        seen.append(command)
        return words(ready) if command == b"\xe4\xb8" else words(712, 0x6667, 0x5EB9)

    Bus.part = SimpleNamespace(address=0x62, answer=answer)
    sensor = make("scd4x", scl=22, sda=21)
    sensor.start()
    with pytest.raises(OSError, match="no new value"):
        sensor.read()
    ready = 0x8006
    sensor.start()
    assert sensor.read() == (712, pytest.approx(25.0, abs=0.01), pytest.approx(37.0, abs=0.01))


def bosch(chip: int) -> SimpleNamespace:
    """A BMP280 with the calibration and the readings of its datasheet's worked example."""
    registers = bytearray(256)
    registers[0xD0] = chip
    struct.pack_into("<Hhh", registers, 0x88, 27504, 26435, -1000)
    struct.pack_into("<Hhhhhhhhh", registers, 0x8E, 36477, -10685, 3024, 2855, 140, -7, 15500,
                     -14600, 6000)  # fmt: skip
    for at, raw in ((0xF7, 415148), (0xFA, 519888)):
        registers[at : at + 3] = bytes([raw >> 12, raw >> 4 & 255, raw << 4 & 255])
    return SimpleNamespace(address=0x76, registers=registers)


def test_bmp280_agrees_with_the_datasheet() -> None:
    Bus.part = bosch(0x58)
    sensor = make("bme280", scl=22, sda=21)
    sensor.start()
    assert sensor.read() == (25.08, pytest.approx(1006.53, abs=0.01))
    assert [key for key, _ in sensor.UNITS] == ["temperature_c", "pressure_hpa"]


def test_bme280_reads_humidity_too() -> None:
    Bus.part = bosch(0x60)
    registers = Bus.part.registers
    h1, h2, h3, h4, h5, h6 = 75, 362, 0, 328, 50, 30  # of a real part
    registers[0xA1] = h1
    struct.pack_into("<hBbBbb", registers, 0xE1, h2, h3, h4 >> 4, h4 & 15 | (h5 & 15) << 4,
                     h5 >> 4, h6)  # fmt: skip
    struct.pack_into(">H", registers, 0xFD, 30000)
    sensor = make("bme280", scl=22, sda=21)
    assert sensor._h == (h1, h2, h3, h4, h5, h6)
    sensor.start()
    assert registers[0xF2] == 1
    humidity = sensor.read()[2]
    t_fine = 128422.0  # the datasheet's integer arithmetic for the same reading
    v = t_fine - 76800
    v = (((30000 * 16384 - h4 * 1048576 - h5 * v) + 16384) / 32768) * (
        ((h6 * v / 1024) * ((h3 * v / 2048) + 32768) / 1024 + 2097152) * h2 + 8192) / 16384
    v -= v / 32768 * (v / 32768) / 128 * h1 / 16
    assert humidity == pytest.approx(v / 4096 / 1024, abs=0.05)


def test_wrong_chip_is_named() -> None:
    Bus.part = bosch(0x61)
    with pytest.raises(OSError, match="chip id 0x61"):
        make("bme280", scl=22, sda=21)


@pytest.mark.parametrize(
    ("volts", "percent"), [(3.0, 0), (2.8, 0), (2.0, 50), (1.2, 100), (0, 100)]
)
def test_adc_follows_its_calibration(volts: float, percent: float) -> None:
    sensor = make("adc", pin=34, points=[[2.8, 0], [1.2, 100]], value="moisture_pct", unit="%")
    Adc.uv = int(volts * 1e6)
    assert sensor.read() == (percent,)
    assert sensor.keys == ("moisture_pct",)


def test_adc_scales_a_divider() -> None:
    sensor = make("adc", pin=35, scale=2)
    Adc.uv = 2050000
    assert sensor.read() == (4.1,)


def test_contact_reports_a_change_once_it_is_steady() -> None:
    Pin.levels = {14: 0}
    sensor = make("contact", pin=14, period_s=3600)
    got = []
    sampler = Sampler([sensor], lambda *record: got.append(record))
    for now, level in enumerate([0] * 5 + [1, 0, 1, 1, 0] + [1] * 60 + [0] * 60):
        Pin.levels[14] = level
        sampler.step(now)
    assert [record[3] for record in got] == [(False,), (True,), (False,)]
    assert got[1][0] == 10 + 50  # 50 ms after the last bounce
    assert sampler.next_ms(200, 50) == 5


def test_pulses_are_counted_and_bounces_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0
    monkeypatch.setattr(time, "ticks_ms", lambda: now, raising=False)
    monkeypatch.setattr(time, "ticks_diff", lambda a, b: a - b, raising=False)
    sensor = make("pulse", pin=27, per_pulse=0.5, value="volume_l", unit="l")
    for now in (100, 105, 110, 200, 300):  # noqa: B007 - the clock
        sensor._pulse(None)
    assert sensor.read() == (1.5, 1.5)
    assert sensor.read() == (0, 1.5)


@pytest.mark.parametrize("raw", [0, 1, -1, 8388606, -8388607, 123456])
def test_hx711_shifts_24_bits_in(raw: int) -> None:
    sensor = make("hx711", dout=16, sck=17, zero=100, per_unit=2)
    bits = [raw >> (23 - i) & 1 for i in range(24)]
    clock = SimpleNamespace(pulses=0, level=0)

    def tick(level: int) -> None:
        clock.pulses += level

    sensor._clock = SimpleNamespace(value=tick)
    sensor._data = SimpleNamespace(value=lambda: bits[clock.pulses - 1] if clock.pulses else 0)
    assert sensor.read() == (round((raw - 100) / 2, 2),)
    assert clock.pulses == 25


def test_hx711_without_a_new_value_raises() -> None:
    Pin.levels = {16: 1}
    with pytest.raises(OSError, match="no new value"):
        make("hx711", dout=16, sck=17).read()


def test_chip_temperature_on_either_chip() -> None:
    assert make("chip", SimpleNamespace(mcu_temperature=lambda: 41)).read() == (41,)
    assert make("chip", SimpleNamespace(raw_temperature=lambda: 127)).read() == (52.8,)
    with pytest.raises(OSError, match="no temperature sensor"):
        make("chip")


def test_ds18b20_names_several_by_their_serial_number(monkeypatch: pytest.MonkeyPatch) -> None:
    roms = [bytes([0x28, 0, 0, 0, 0, 0x3F, 0x1C, 9])]
    bus = SimpleNamespace(scan=lambda: roms, convert_temp=lambda: None,
                          read_temp=lambda rom: 85.0 if rom[5] == 0xEE else 21.5)  # fmt: skip
    one_wire, ds = ModuleType("onewire"), ModuleType("ds18x20")
    one_wire.OneWire = lambda pin: pin  # type: ignore[attr-defined]
    ds.DS18X20 = lambda wire: bus  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "onewire", one_wire)
    monkeypatch.setitem(sys.modules, "ds18x20", ds)
    sensor = make("ds18b20", pin=5)
    sensor.start()
    assert sensor.read() == (21.5,)
    roms.append(bytes([0x28, 0, 0, 0, 0, 0xAA, 0x01, 9]))
    assert sensor.read() == (21.5,)  # what was found stays; a new probe needs a restart
    sensor = make("ds18b20", pin=5)
    sensor.start()
    assert sensor.read() == [("-3f1c", (21.5,)), ("-aa01", (21.5,))]
    roms[0] = bytes([0x28, 0, 0, 0, 0, 0xEE, 0x1C, 9])
    with pytest.raises(ValueError, match="not converted"):
        sensor.read()


def test_led_says_what_is_wrong_and_a_held_button_is_noticed() -> None:
    from node.panel import Panel

    def rhythm(panel: Any, start: int, **state: bool) -> str:
        seen = ""
        for now in range(start, start + 2000, 100):
            panel.step(now, state.get("wifi", True), state.get("online", True),
                       state.get("identify", False))  # fmt: skip
            seen += str(Pin.levels[2])
        return seen

    Pin.levels = {0: 1, 2: 0}
    panel = Panel(machine, {"pin": 2}, {"pin": 0})
    assert rhythm(panel, 0) == "1" + "0" * 19
    assert rhythm(panel, 2000, online=False) == "101" + "0" * 17
    assert rhythm(panel, 4000, wifi=False) == "1" * 10 + "0" * 10
    assert rhythm(panel, 6000, identify=True) == "01" * 10
    inverted = Panel(machine, {"pin": 2, "invert": True}, None)
    assert rhythm(inverted, 0) == "0" + "1" * 19
    Pin.levels[0] = 0
    assert not panel.step(8000, True, True, False)
    assert not panel.step(17999, True, True, False)
    Pin.levels[0] = 1
    assert not panel.step(18000, True, True, False)
    Pin.levels[0] = 0
    assert not panel.step(18100, True, True, False)
    assert panel.step(28100, True, True, False)


def test_forgetting_the_wifi_leaves_the_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    resets = []
    board = ModuleType("node.board")
    board.reset = lambda: resets.append(1)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "node.board", board)
    monkeypatch.setattr(importlib.import_module("node"), "board", board, raising=False)
    path = tmp_path / "config.json"
    path.write_text('{"wifi": {"ssid": "a", "password": "b"}, "device": "d"}')
    importlib.import_module("node.rare").forget_wifi(str(path))
    assert json.loads(path.read_text()) == {"wifi": {"ssid": "", "password": ""}, "device": "d"}
    assert resets == [1]


def test_new_sensor_of_the_docs_works_and_is_short() -> None:
    text = (Path(__file__).parents[2] / "docs" / "sensors.md").read_text()
    code = text.split("```python\n")[1].split("```")[0]
    assert len(code.splitlines()) < 20
    names: dict[str, Any] = {}
    exec(code, names)
    Bus.part = SimpleNamespace(address=0x23, answer=lambda got: b"\x04\xb0" if got else b"")
    entry = {"kind": "bh1750", "name": "light", "period_s": 1, "scl": 22, "sda": 21}
    sensor = names["make"](entry, SimpleNamespace(machine=machine))
    sensor.start()
    assert sensor.read() == (1000.0,)


def test_every_kind_is_in_the_docs() -> None:
    root = Path(__file__).parents[2]
    text = (root / "docs" / "sensors.md").read_text()
    helpers = {"__init__", "i2c", "sensirion"}
    kinds = {path.stem for path in (root / "device/node/sensors").glob("*.py")} - helpers
    assert {kind for kind in kinds if f"`{kind}`" not in text} == set()


class Flaky(Sensor):
    UNITS = (("x", ""),)
    WARM_MS = 10

    def open(self, settings: Any, board: Any) -> None:
        self.fail = settings["fail"]
        self.reads: list[str] = []

    def read(self) -> tuple[int]:
        self.reads.append("read")
        if self.fail:
            self.fail -= 1
            raise Exception("bare, as drivers do")
        return (1,)


@pytest.mark.parametrize(("fail", "records"), [(0, 10), (1, 10), (2, 10), (3, 9), (100, 0)])
def test_sampler_tries_again_counts_and_gives_up_for_this_time(fail: int, records: int) -> None:
    sensor = Flaky({"name": "a", "kind": "b", "period_s": 10, "fail": fail}, None)
    got: list[Any] = []
    sampler = Sampler([sensor], lambda *record: got.append(record))
    for now in range(0, 100_000, 10):
        sampler.step(now)
    assert len(got) == records
    assert sensor.errors >= min(fail, 20)


def test_sampler_keeps_the_period_and_reads_at_once_when_asked() -> None:
    sensor = Flaky({"name": "a", "kind": "b", "period_s": 1, "fail": 0}, None)
    got: list[int] = []
    sampler = Sampler([sensor], lambda now, *_: got.append(now))
    for now in range(0, 5000, 3):
        sampler.step(now)
    assert len(got) == 5
    assert all(abs(b - a - 1000) <= 6 for a, b in pairwise(got))
    sampler.read_now("nobody")
    assert len(got) == 5
    assert sampler.read_now("a") == 1
    sampler.step(5000)
    sampler.step(5010)
    assert len(got) == 6
