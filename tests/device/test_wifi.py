"""The station that keeps itself connected, on CPython: a radio that refuses is given rest."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest


class Radio:
    """A WLAN whose connect() raises what the test set."""

    def __init__(self) -> None:
        self.connects: list[int] = []  # when [ms]
        self.now_ms = 0
        self.error: Exception | None = None
        self.joined = False
        self.busy = False  # connecting by itself: it takes nothing until disconnect()

    def active(self, _on: bool) -> None:
        pass

    def isconnected(self) -> bool:
        return self.joined

    def connect(self, _ssid: str, _password: str) -> None:
        self.connects.append(self.now_ms)
        if self.error:
            raise self.error

    def disconnect(self) -> None:
        if self.busy:
            self.busy, self.error = False, None
        if self.error:
            raise self.error


@pytest.fixture
def radio(monkeypatch: pytest.MonkeyPatch) -> Iterator[Radio]:
    made = Radio()
    network = ModuleType("network")
    network.__dict__.update(STA_IF=0, WLAN=lambda _interface: made, hostname=lambda _name: None)
    monkeypatch.setitem(sys.modules, "network", network)
    yield made
    sys.modules.pop("node.wifi", None)


def run(radio: Radio, until_ms: int) -> Any:
    """Step a station every 50 ms until then; give it."""
    wifi = importlib.import_module("node.wifi").Wifi(lambda: radio.now_ms, "home", "secret", "d")
    while radio.now_ms < until_ms:
        wifi.step()
        radio.now_ms += 50
    return wifi


@pytest.mark.parametrize("error", [OSError(1), RuntimeError("Wifi Internal State Error")])
def test_refused_connect_rests_a_second(
    radio: Radio, error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    radio.error = error
    run(radio, 10_000)
    assert radio.connects == list(range(0, 10_000, 1000))
    assert f"wifi {type(error).__name__} {error}" in capsys.readouterr().out


def test_connect_that_takes_too_long_is_begun_anew_after_a_rest(radio: Radio) -> None:
    run(radio, 17_000)
    assert radio.connects == [0, 16_050]


def test_connected_station_is_left_alone(radio: Radio) -> None:
    radio.joined = True
    assert run(radio, 60_000).up
    assert radio.connects == []


def test_station_that_connects_by_itself_is_stopped_first(radio: Radio) -> None:
    radio.busy, radio.error = True, RuntimeError("Wifi Internal Error")
    run(radio, 5_000)
    assert radio.connects == [0, 1000]
