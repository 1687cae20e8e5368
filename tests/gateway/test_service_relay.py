"""Fans and relays that follow a rule: the rule, its mistakes, and the pins."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

import pytest
from gpiozero.pins.mock import MockFactory

from gateway import panel as panel_file
from gateway.config import load
from gateway.errors import ConfigError
from gateway.exposure import PanelConfig
from gateway.panel import Panel
from gateway.relay import Readings, Relay, RelayConfig
from tools.gateway_process import PROJECT

CALM: dict[str, float | None] = {"temperature": 40.0, "backlog": 0, "devices": 5, "away": 0,
                                 "fault": 0}


def follow(config: RelayConfig, name: str, values: list[float | None]) -> list[bool]:
    """What a relay does over readings that come one a second."""
    relay = Relay(config)
    return [relay.follow(CALM | {name: value}, second) for second, value in enumerate(values)]


@pytest.mark.parametrize(("when", "back", "name", "values", "expected"), [
    ("temperature > 60", None, "temperature", [60, 60.1, 56, 55.1, 55, 58, 61], "0111001"),
    ("temperature > 60", 50, "temperature", [61, 51, 50, 59], "1100"),
    ("temperature < 5", None, "temperature", [5, 4, 9.9, 10, 6], "01100"),
    ("temperature > 60", None, "temperature", [61, None, 58, 61], "1001"),
    ("backlog > 1000", None, "backlog", [1000, 1001, 1000], "010"),
    ("backlog>1000", 10, "backlog", [1001, 11, 10], "110"),
    ("devices < 3", None, "devices", [3, 2, 0, 3], "0110"),
    ("devices < 3", 5, "devices", [2, 4, 5], "110"),
    ("away", None, "away", [0, 1, 0], "010"),
    (" fault ", None, "fault", [0, 1, 0], "010")])
def test_rule_holds_until_the_reading_is_back(
        when: str, back: float | None, name: str, values: list[float | None],
        expected: str) -> None:
    did = follow(RelayConfig(17, when, back=back), name, values)
    assert "".join(str(int(on)) for on in did) == expected


def test_rule_has_to_hold_for_a_while_without_a_break() -> None:
    away: list[float | None] = [1, 1, 0, 1, 1, 1, 0]
    assert follow(RelayConfig(17, "away", after_s=2), "away", away) == [
        False, False, False, False, False, True, False]


@pytest.mark.parametrize(("text", "parts"), [
    ('pin = 40\nwhen = "away"', ["panel.relay[0].pin", "40", "0 to 27"]),
    ('pin = 17\nwhen = "away"', ["panel.relay[0].pin", "17", "taken already"]),
    ('pin = 5\nwhen = "hot"', ["panel.relay[0].when", "'hot'", "temperature > 60"]),
    ('pin = 5\nwhen = "away > 3"', ["panel.relay[0].when", "away or fault"]),
    ('pin = 5', ["panel.relay[0]", "when"]),
    ('pin = 5\nwhen = "backlog > 10"\nback = 11', ["panel.relay[0].back", "11", "at most 10"]),
    ('pin = 5\nwhen = "devices < 3"\nback = 2', ["panel.relay[0].back", "2", "at least 3"]),
    ('pin = 5\nwhen = "away"\nback = 2', ["panel.relay[0].back", "2", "with a number"]),
    ('pin = 5\nwhen = "away"\nafter_s = -1', ["panel.relay[0].after_s", "-1"]),
    ('pin = 5\nwhen = "away"\nafter_s = nan', ["panel.relay[0].after_s", "nan"]),
    ('pin = 5\nwhen = "away"\n[[panel.relay]]\npin = 5\nwhen = "fault"',
     ["panel.relay[1].pin", "taken already"]),
    ('pin = 5\nwhen = "away"\nthen = "on"', ["panel.relay[0].then", "no such setting"])])
def test_mistake_is_one_line_that_says_what_is_right(tmp_path: Path, text: str,
                                                     parts: list[str]) -> None:
    path = tmp_path / "tidegate.toml"
    path.write_text(f"[panel]\nled = 17\n[[panel.relay]]\n{text}\n")
    with pytest.raises(ConfigError) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    for part in parts:
        assert part in str(caught.value)


def test_pins_follow_rules_and_are_let_go_at_the_end(
        pins: MockFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture) -> None:
    sensor = tmp_path / "temp"
    sensor.write_text("45000\n")
    monkeypatch.setattr(panel_file, "SENSOR_FILE", str(sensor))
    monkeypatch.setattr(panel_file, "LOOK_S", 0)
    now = {"upstream": "connected", "depth": 0, "connected_devices": 1}
    fan, lamp = pins.pin(22), pins.pin(23)

    class Well:
        def at_risk(self) -> list[str]:
            return []

    async def run() -> None:
        panel = Panel(PanelConfig(relay=[
            RelayConfig(22, "temperature > 60"),
            RelayConfig(23, "backlog > 10", active_high=False)]), lambda: None)
        task = asyncio.create_task(panel.run(lambda: now, Well()))  # type: ignore[arg-type]

        async def until(fan_pin: int, lamp_pin: int) -> None:
            async with asyncio.timeout(10):
                while (fan.state, lamp.state) != (fan_pin, lamp_pin):
                    await asyncio.sleep(0)

        await until(0, 1)
        sensor.write_text("61000\n")
        await until(1, 1)
        now["depth"] = 11
        await until(1, 0)
        sensor.write_text("54000\n")
        await until(0, 0)
        now["depth"] = 10
        await until(0, 1)
        sensor.unlink()
        now["depth"] = 11
        await until(0, 0)  # a sensor that is gone stops nothing else
        task.cancel()
        panel.close()
        assert (fan.function, lamp.function) == ("input", "input")

    with caplog.at_level(logging.INFO, "tidegate.panel"):
        asyncio.run(run())
    assert "relay pin=22 on when='temperature > 60' temperature=61.0" in caplog.text


def test_machine_without_a_thermometer_says_so_once_and_switches_the_others(
        pins: MockFactory, monkeypatch: pytest.MonkeyPatch,
        caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(panel_file, "SENSOR_FILE", "/no/such/sensor")

    async def run() -> None:
        panel = Panel(PanelConfig(relay=[RelayConfig(22, "temperature > 1"),
                                         RelayConfig(23, "away")]), lambda: None)
        readings: Readings = CALM | {"temperature": panel._celsius(), "away": 1}
        panel.switch(readings)
        panel.switch(readings)
        assert (pins.pin(22).state, pins.pin(23).state) == (0, 1)
        panel.close()

    asyncio.run(run())
    assert caplog.text.count("no temperature") == 1


def test_documented_relays_are_a_good_config(tmp_path: Path) -> None:
    text = (PROJECT / "docs" / "pi.md").read_text()
    blocks = [part.partition("```")[0] for part in text.split("```toml\n")[1:]]
    path = tmp_path / "tidegate.toml"
    path.write_text(next(block for block in blocks if "[[panel.relay]]" in block))
    panel = load(path).panel
    assert panel is not None
    assert [relay.when.split()[0] for relay in panel.relay] == ["temperature", "away"]
