"""Every sensor against a small part that answers as its datasheet says, on CPython."""

from __future__ import annotations

import importlib
import struct
import sys
import time
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from fake_machine import Adc, Bus, Pin, machine, make
from node.sensor import Sampler


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


def test_scd4x_that_lost_its_power_alone_is_told_to_measure_again() -> None:
    measuring, records = False, []

    def answer(command: bytes) -> bytes:
        nonlocal measuring
        if command == b"\xe4\xb8":
            return words(0x8006 if measuring else 0x8000)
        return words(712, 0x6667, 0x5EB9)

    Bus.part = SimpleNamespace(address=0x62, answer=answer)
    sensor = make("scd4x", scl=22, sda=21)
    told = sensor.command

    def command(code: bytes) -> None:
        nonlocal measuring
        measuring = measuring or code == b"\x21\xb1"
        told(code)

    sensor.command = command
    sampler = Sampler([sensor], lambda *record: records.append(record))
    for now in range(0, 10_000, 10):
        sampler.step(now)
    assert records
    measuring, before = False, len(records)
    for now in range(10_000, 60_000, 10):
        sampler.step(now)
    assert len(records) > before


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
    sensor.start()
    assert sensor._h == (h1, h2, h3, h4, h5, h6)
    assert sensor.keys == ("temperature_c", "pressure_hpa", "humidity_pct")
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
        make("bme280", scl=22, sda=21).start()


def test_bme280_that_is_plugged_in_later_is_read() -> None:
    Bus.part = bosch(0x58)
    there, Bus.part.registers = Bus.part.registers, b""  # nobody answers
    sensor = make("bme280", scl=22, sda=21)
    with pytest.raises(IndexError):
        sensor.start()
    Bus.part.registers = there
    sensor.start()
    assert len(sensor.read()) == 2


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


@pytest.mark.parametrize("still_days", [1, 6, 7, 12, 13])
def test_pulses_are_counted_after_days_without_one(monkeypatch: pytest.MonkeyPatch,
                                                   still_days: int) -> None:
    period, now = 1 << 30, 0  # ticks_ms begins anew after 12.4 days
    monkeypatch.setattr(time, "ticks_ms", lambda: now % period, raising=False)
    monkeypatch.setattr(time, "ticks_diff", lambda a, b: (a - b + period // 2) % period
                        - period // 2, raising=False)
    sensor = make("pulse", pin=27)
    for hour in range(24 * still_days, 24 * still_days + 200):
        now = hour * 3_600_000
        sensor._pulse(None)
        now += 5
        sensor._pulse(None)  # a bounce
    assert sensor.read() == (200, 200)


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


class Wires:
    """A 1-Wire bus with the interface of the image's driver."""

    def __init__(self) -> None:
        self.roms = [self.rom(0x3F, 0x1C)]
        self.buf = bytearray(b"x" * 9)

    @staticmethod
    def rom(*serial: int) -> bytes:
        return bytes([0x28, 0, 0, 0, 0, *serial, 9])

    def scan(self) -> list[bytes]:
        return list(self.roms)

    def convert_temp(self) -> None: ...

    def read_temp(self, rom: bytes) -> float:
        if rom not in self.roms:
            raise Exception("CRC error")
        return 85.0 if rom[5] == 0xEE else 0.0 if not any(self.buf) else 21.5


@pytest.fixture
def wires(monkeypatch: pytest.MonkeyPatch) -> Wires:
    bus = Wires()
    one_wire, ds = ModuleType("onewire"), ModuleType("ds18x20")
    one_wire.OneWire = lambda pin: pin  # type: ignore[attr-defined]
    ds.DS18X20 = lambda wire: bus  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "onewire", one_wire)
    monkeypatch.setitem(sys.modules, "ds18x20", ds)
    monkeypatch.delitem(sys.modules, "node.sensors.ds18b20", raising=False)
    return bus


def test_ds18b20_names_several_by_their_serial_number(wires: Wires) -> None:
    sensor = make("ds18b20", pin=5)
    sensor.start()
    assert sensor.read() == (21.5,)
    wires.roms.append(wires.rom(0xAA, 0x01))
    assert sensor.read() == (21.5,)  # what was found stays; a new probe needs a restart
    sensor = make("ds18b20", pin=5)
    sensor.start()
    assert sensor.read() == [("-3f1c", (21.5,)), ("-aa01", (21.5,))]
    wires.roms[:] = [wires.rom(0xEE, 0x1C)]
    sensor = make("ds18b20", pin=5)
    sensor.start()
    with pytest.raises(ValueError, match="not converted"):
        sensor.read()


def test_ds18b20_that_is_unplugged_silences_no_other(wires: Wires) -> None:
    records: list[str] = []
    wires.roms += [wires.rom(0xAA, 0x01), wires.rom(0xBB, 0x02)]
    sensor = make("ds18b20", pin=5)
    sampler = Sampler([sensor], lambda now, name, keys, values: records.append(name))
    for now in range(0, 20_000, 50):
        sampler.step(now)
    assert {name[-4:] for name in records} == {"3f1c", "aa01", "bb02"}
    records.clear()
    wires.roms.pop(1)
    for now in range(20_000, 60_000, 50):
        sampler.step(now)
    assert {name[-4:] for name in records} == {"3f1c", "bb02"}
    assert len(records) > 40
    wires.roms.pop(1)  # one alone keeps the name that it had among several
    records.clear()
    for now in range(60_000, 90_000, 50):
        sampler.step(now)
    assert set(records) == {"ds18b20-3f1c"}


def test_ds18b20_on_a_shorted_line_is_no_zero(wires: Wires) -> None:
    sensor = make("ds18b20", pin=5)
    sensor.start()
    wires.buf[:] = bytes(9)
    with pytest.raises(OSError, match="shorted"):
        sensor.read()


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
