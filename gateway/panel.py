"""A status LED and a button on the Pi: the only file that imports gpiozero.

    LED on                 all is well: upstream connected, backlog small
    short flash            upstream away, everything is kept on disk
    even, 1 s              backlog above [panel] backlog
    fast                   fault: the promise is at risk (disk, clock, watchdog)
    off                    not running; breathing once a second: starting

    short press            identify: ten fast flashes, and a line in the log
    held for hold_s        stop the gateway cleanly (systemd does not start it again)

Without GPIO it says so once and goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from gateway.exposure import PanelConfig
from gateway.health import Health

log = logging.getLogger("tidegate.panel")

LOOK_S = 0.5
STARTING, WELL, AWAY, GROWING, FAULT = "starting", "well", "away", "growing", "fault"
# state → seconds on and off; None: on without end
BLINK = {STARTING: (0.5, 0.5), WELL: None, AWAY: (0.1, 1.9), GROWING: (1.0, 1.0),
         FAULT: (0.1, 0.1)}
IDENTIFY_FLASHES, IDENTIFY_S = 10, 0.1


def state_of(reasons: list[str], upstream: str, depth: int, backlog: int) -> str:
    """What the LED should show; the worst counts."""
    if reasons:
        return FAULT
    if depth >= backlog:
        return GROWING
    return WELL if upstream == "connected" else AWAY


class Panel:
    """LED and button. gpiozero blinks and listens in threads of its own."""

    def __init__(self, config: PanelConfig, stop: Callable[[], None]) -> None:
        self.state = ""
        self.identified = 0
        self._config, self._stop = config, stop
        self._led: Any = None
        self._button: Any = None
        self._held = False
        self._quiet_until_s = 0.0
        self._loop = asyncio.get_running_loop()
        try:
            from gpiozero import LED, Button

            if config.led is not None:
                self._led = LED(config.led)
            if config.button is not None:
                self._button = Button(config.button, hold_time=config.hold_s, bounce_time=None)
                self._button.when_held = self._on_held
                self._button.when_released = self._on_released
        except Exception as error:  # gpiozero and its drivers raise whatever they like
            self.close()
            log.warning("no panel, going on without reason=%r", f"{type(error).__name__}: {error}")
        else:
            self.show(STARTING)

    def show(self, state: str) -> None:
        """Set the LED, where that is a change."""
        if state == self.state or self._led is None:
            return
        self.state = state
        pattern = BLINK[state]
        if pattern is None:
            self._led.on()
        else:
            self._led.blink(*pattern)

    def _on_held(self) -> None:
        self._held = True
        log.warning("button held, stopping")
        self._loop.call_soon_threadsafe(self._stop)

    def _on_released(self) -> None:
        if not self._held:
            self._loop.call_soon_threadsafe(self._identify)
        self._held = False

    def _identify(self) -> None:
        self.identified += 1
        log.info("button pressed, here I am")
        if self._led is not None:
            self._led.blink(IDENTIFY_S, IDENTIFY_S, n=IDENTIFY_FLASHES)
            self.state = ""  # so that the next look puts the pattern back
            self._quiet_until_s = self._loop.time() + 2 * IDENTIFY_S * IDENTIFY_FLASHES

    async def run(self, status: Callable[[], dict[str, Any]], health: Health) -> None:
        """Follow the gateway, for ever."""
        while True:
            if self._loop.time() >= self._quiet_until_s:
                now = status()
                self.show(state_of(health.at_risk(), now["upstream"], now["depth"],
                                   self._config.backlog))
            await asyncio.sleep(LOOK_S)

    def close(self) -> None:
        """Give the pins back."""
        for part in (self._led, self._button):
            if part is not None:
                part.close()
        self._led = self._button = None
