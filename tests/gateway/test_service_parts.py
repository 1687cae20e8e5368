"""Watchdog, health and panel, each without the rest."""

from __future__ import annotations

import asyncio
import logging
import threading
from pathlib import Path

import pytest
from gpiozero import Device
from gpiozero.pins.mock import MockFactory

from gateway.commit import Committer
from gateway.exposure import PanelConfig
from gateway.log import SAME_MOST, WINDOW_S, Calm
from gateway.outbox import Outbox
from gateway.pacer import Pacer
from gateway.panel import AWAY, FAULT, GROWING, WELL, Panel, state_of
from gateway.watch import Beat


def test_beat_stops_while_the_disk_hangs_and_goes_on_after(tmp_path: Path) -> None:
    async def run() -> None:
        committer = Committer(Outbox(tmp_path / "o.db"), Pacer(0, 1))
        beats: asyncio.Queue[int] = asyncio.Queue()
        beat = Beat(committer, 0.001)
        task = asyncio.create_task(beat.run(lambda: beats.put_nowait(1)))
        async with asyncio.timeout(10):
            await beats.get()
            disk = threading.Event()
            hanging = asyncio.create_task(committer.read(lambda: disk.wait(10)))
            await asyncio.sleep(0)
            while not beats.empty():
                beats.get_nowait()
            beat.last_s -= 60  # a minute passes
            await asyncio.wait({hanging}, timeout=0.1)
            assert beat.late()
            assert beats.empty()
            disk.set()
            await hanging
            await beats.get()
            assert not beat.late()
        task.cancel()
        committer.close()

    asyncio.run(run())


def test_storm_of_one_line_is_counted_and_others_come_through() -> None:
    now_s = [0.0]
    calm, shown = Calm(lambda: now_s[0]), []

    def say(text: str, *values: object) -> None:
        record = logging.LogRecord("x", logging.WARNING, "", 0, text, values, None)
        if calm.filter(record):
            shown.append(record.getMessage())

    for number in range(1000):
        say("closed peer=%s", number)
    say("something else")
    assert len(shown) == SAME_MOST + 1
    assert shown[-1] == "something else"
    now_s[0] = WINDOW_S
    say("closed peer=%s", "last")
    say("closed peer=%s", "after")
    assert shown[-2:] == ["closed peer=last (and 980 like it before, not shown)",
                          "closed peer=after"]
    for number in range(SAME_MOST):
        say("closed peer=%s", number)
    assert calm.over() == []
    now_s[0] += WINDOW_S
    assert calm.over() == [("x", "closed peer=%s", 2)]
    assert calm.over() == []


@pytest.mark.parametrize(("reasons", "upstream", "depth", "state"), [
    ([], "connected", 0, WELL), ([], "away: refused", 5, AWAY), ([], "connected", 1000, GROWING),
    ([], "away", 1000, GROWING), (["disk: full"], "connected", 0, FAULT)])
def test_led_shows_the_worst(reasons: list[str], upstream: str, depth: int, state: str) -> None:
    assert state_of(reasons, upstream, depth, 1000) == state


def test_button_short_identifies_and_long_stops(pins: MockFactory) -> None:
    async def run() -> None:
        stop = asyncio.Event()
        panel = Panel(PanelConfig(led=17, button=27, hold_s=0.5), stop.set)
        led, button = pins.pin(17), pins.pin(27)
        panel.show(WELL)
        assert led.state == 1
        button.drive_low()
        button.drive_high()
        async with asyncio.timeout(10):
            while not panel.identified:
                await asyncio.sleep(0)
            assert not stop.is_set()
            button.drive_low()
            await stop.wait()
            button.drive_high()
            await asyncio.sleep(0)
        assert panel.identified == 1
        panel.close()

    asyncio.run(run())


def test_machine_without_gpio_says_so_once(caplog: pytest.LogCaptureFixture,
                                           monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPIOZERO_PIN_FACTORY", "nosuch")
    monkeypatch.setattr(Device, "pin_factory", None)

    async def run() -> None:
        panel = Panel(PanelConfig(led=17, button=27), lambda: None)
        panel.show(WELL)
        panel.show(AWAY)
        panel.close()

    with caplog.at_level(logging.INFO, "tidegate.panel"):
        asyncio.run(run())
    assert len(caplog.records) == 1
    assert "no panel" in caplog.text
