"""Sensors of events on the whole firmware: what is done to a pin arrives as records."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_broker import FakeBroker, Manner

from tools.virtual.board import VirtualBoard


@pytest.fixture
def fake() -> Iterator[FakeBroker]:
    broker = FakeBroker([Manner()])
    yield broker
    broker.close()


def board_with(fake: FakeBroker, folder: Path, *sensors: dict[str, Any]) -> VirtualBoard:
    settings = {
        "device": "dev", "wifi": {"ssid": "home", "password": "secret"}, "hold_ms": 50,
        "gateway": {"host": "127.0.0.1", "port": fake.port}, "sensors": list(sensors),
    }  # fmt: skip
    return VirtualBoard(
        image=folder / "flash.img", files=Path("device"), config=settings, heap_kb=96
    )


def readings(fake: FakeBroker, name: str, count: int) -> list[dict[str, Any]]:
    """Wait until that many records of a sensor have come; give the values of all."""
    batches = 1
    while True:
        ups = fake.wait_for("up", batches)
        found = [values for up in ups for _, what, values in up["recs"] if what == name]
        if len(found) >= count:
            return found
        batches = len(ups) + 1


def test_pulses_are_counted_by_interrupt(fake: FakeBroker, tmp_path: Path) -> None:
    meter = {"kind": "pulse", "name": "water", "pin": 27, "value": "volume_l", "unit": "l",
             "per_pulse": 0.5, "period_s": 0.2}  # fmt: skip
    with board_with(fake, tmp_path, meter) as board:
        board.drive(27, 1)
        board.wait("^online")
        seen = 0
        for pulse in range(1, 4):
            board.drive(27, 0)
            board.drive(27, 1)
            while (found := readings(fake, "water", seen + 1))[-1]["total"] < pulse * 0.5:
                seen = len(found)
        assert found[-1]["total"] == 1.5
        assert sum(values["volume_l"] for values in found) == 1.5


@pytest.mark.parametrize(("kind", "key"), [("contact", "open"), ("pir", "motion")])
def test_change_is_a_record_at_once_and_a_bounce_is_none(
    fake: FakeBroker, tmp_path: Path, kind: str, key: str
) -> None:
    sensor = {"kind": kind, "name": "it", "pin": 14, "debounce_ms": 100, "period_s": 3600}
    with board_with(fake, tmp_path, sensor) as board:
        board.drive(14, 0)
        first = readings(fake, "it", 1)
        for level in (1, 0, 1, 0, 1):  # within the time of debouncing
            board.drive(14, level)
        second = readings(fake, "it", len(first) + 1)
        board.drive(14, 0)
        found = readings(fake, "it", len(second) + 1)
    assert [values[key] for values in found[-2:]] == [True, False]
    assert len(found) == len(first) + 2


def test_dht11_is_read(fake: FakeBroker, tmp_path: Path) -> None:
    with board_with(fake, tmp_path, {"kind": "dht11", "name": "air", "pin": 4}) as board:
        board.world.set("air", temperature_c=23.0, humidity_pct=51.0)
        board.reset()
        found = readings(fake, "air", 1)
    assert found[-1] == {"temperature_c": 23, "humidity_pct": 51}
