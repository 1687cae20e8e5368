"""The firmware's LED and button, and what a long press does, on CPython."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_machine import Pin, machine


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
    tmp_path: Path, rare: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    resets = []
    monkeypatch.setattr(rare, "board", SimpleNamespace(reset=lambda: resets.append(1)))
    path = tmp_path / "config.json"
    path.write_text('{"wifi": {"ssid": "a", "password": "b"}, "device": "d"}')
    rare.forget_wifi(str(path))
    assert json.loads(path.read_text()) == {"wifi": {"ssid": "", "password": ""}, "device": "d"}
    assert resets == [1]
