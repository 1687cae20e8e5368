"""The playback sensor: values over the console, each taken once, rubbish borne."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import pytest

SETTINGS = {"kind": "playback", "name": "air", "period_s": 1,
            "values": {"temperature_c": "°C", "humidity_pct": "%"}}
Type = Callable[[bytes], None]


class Stdin:
    """A console that select can wait for and that gives no more than it was asked for."""

    def __init__(self, end: int) -> None:
        self._end = end

    def fileno(self) -> int:
        return self._end

    def read(self, count: int) -> str:
        return os.read(self._end, count).decode()


@pytest.fixture
def type_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[Type]:
    near, far = os.pipe()
    monkeypatch.setattr(sys, "stdin", Stdin(near))
    monkeypatch.delitem(sys.modules, "node.sensors.playback", raising=False)

    def write(data: bytes) -> None:
        os.write(far, data)

    yield write
    os.close(near)
    os.close(far)


def load() -> ModuleType:
    return importlib.import_module("node.sensors.playback")


def polled(sensor: Any) -> list[tuple[float, ...]]:
    return [values for _ in range(10) if (values := sensor.poll(0)) is not None]


def test_each_number_is_taken_once_and_answered_always(
        type_in: Type, capsys: pytest.CaptureFixture[str]) -> None:
    sensor = load().make(SETTINGS, None)
    assert sensor.read() is None
    type_in(b"feel 1 air 48 21.5\nfeel 1 air 48 21.5\nfeel 2 air 49 21.5\r\nfe")
    assert polled(sensor) == [(48.0, 21.5), (49.0, 21.5)]
    assert sensor.read() == (49.0, 21.5)
    assert capsys.readouterr().out == "felt 1\nfelt 1\nfelt 2\n"
    type_in(b"el 3 air 1 2\n")
    assert polled(sensor) == [(1.0, 2.0)]
    assert [name for name, _ in sensor.UNITS] == ["humidity_pct", "temperature_c"]


def test_lines_for_nobody_change_nothing(type_in: Type, capsys: pytest.CaptureFixture[str]
                                         ) -> None:
    sensor = load().make(SETTINGS, None)
    type_in(b"\x04\r\x03\nfeel 1 moon 1 2\nfeel 2 air 1\nfelt 3\n\n" + b"x" * 300 + b"\n")
    assert polled(sensor) == []
    assert capsys.readouterr().out == ""
    type_in(b"\x04feel 4 air 1 2\n")  # a Ctrl-D that was meant for a prompt
    assert polled(sensor) == [(1.0, 2.0)]


def test_sensors_share_the_console(type_in: Type) -> None:
    module = load()
    air = module.make(SETTINGS, None)
    flow = module.make({**SETTINGS, "name": "flow", "values": {"temperature_c": "°C"}}, None)
    type_in(b"feel 1 flow 5\nfeel 2 air 1 2\n")
    assert polled(air) == [(1.0, 2.0)]
    assert polled(flow) == [(5.0,)]
