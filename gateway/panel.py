"""A status LED, a button and relays on the Pi: the only file that imports gpiozero.

    LED on                 all is well: upstream connected, backlog small
    short flash            upstream away, everything is kept on disk
    even, 1 s              backlog above [panel] backlog
    fast                   fault: the promise is at risk (disk, clock, watchdog)
    off                    not running; breathing once a second: starting

    short press            identify: ten fast flashes, and a line in the log
    held for hold_s        stop the gateway cleanly (systemd does not start it again)

    relay                  follows its rule (relay.py), looked at every LOOK_S; off at the end

Without GPIO it says so once and goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from gateway.exposure import PanelConfig
from gateway.health import Health
from gateway.relay import Readings, Relay

log = logging.getLogger("tidegate.panel")

LOOK_S = 0.5
STARTING, WELL, AWAY, GROWING, FAULT = "starting", "well", "away", "growing", "fault"
# state → seconds on and off; None: on without end
BLINK = {STARTING: (0.5, 0.5), WELL: None, AWAY: (0.1, 1.9), GROWING: (1.0, 1.0),
         FAULT: (0.1, 0.1)}
SENSOR_FILE = "/sys/class/thermal/thermal_zone0/temp"
IDENTIFY_FLASHES, IDENTIFY_S = 10, 0.1


def state_of(reasons: list[str], upstream: str, depth: int, backlog: int) -> str:
    """What the LED should show; the worst counts."""
    if reasons:
        return FAULT
    if depth >= backlog:
        return GROWING
    return WELL if upstream == "connected" else AWAY


class Panel:
    """LED, button and relays. gpiozero blinks and listens in threads of its own."""

    def __init__(self, config: PanelConfig, stop: Callable[[], None]) -> None:
        self.state = ""
        self.identified = 0
        self._config, self._stop = config, stop
        self._led: Any = None
        self._button: Any = None
        self._thermometer: Any = None
        self._blind = False  # it failed when it was last asked
        self._relays = [Relay(relay) for relay in config.relay]
        self._switches: list[Any] = []  # of the relays, in their order
        self._held = False
        self._quiet_until_s = 0.0
        self._loop = asyncio.get_running_loop()
        try:
            from gpiozero import LED, Button, OutputDevice

            if config.led is not None:
                self._led = LED(config.led)
            if config.button is not None:
                self._button = Button(config.button, hold_time=config.hold_s, bounce_time=None)
                self._button.when_held = self._on_held
                self._button.when_released = self._on_released
            for relay in config.relay:
                self._switches.append(OutputDevice(relay.pin, active_high=relay.active_high))
            if any(relay.name == "temperature" for relay in self._relays):
                self._find_thermometer()
        except Exception as error:  # gpiozero and its drivers raise whatever they like
            self.close()
            log.warning("no panel, going on without reason=%r", f"{type(error).__name__}: {error}")
        else:
            self.show(STARTING)

    def _find_thermometer(self) -> None:
        from gpiozero import CPUTemperature

        try:
            self._thermometer = CPUTemperature(sensor_file=SENSOR_FILE)
        except (OSError, ValueError) as error:
            log.warning("no temperature, relays that need it stay off reason=%r", str(error))

    def _celsius(self) -> float | None:
        if self._thermometer is None:
            return None
        try:
            celsius = float(self._thermometer.temperature)
        except (OSError, ValueError) as error:
            if not self._blind:
                log.warning("no temperature now reason=%r", str(error))
            self._blind = True
            return None
        self._blind = False
        return celsius

    def switch(self, readings: Readings) -> None:
        """Let every relay follow its rule."""
        for relay, switch in zip(self._relays, self._switches, strict=False):
            before = relay.on
            if relay.follow(readings, self._loop.time()) != before:
                switch.value = relay.on
                log.info("relay pin=%d %s when=%r %s=%s", relay.config.pin,
                         "on" if relay.on else "off", relay.config.when, relay.name,
                         readings[relay.name])

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
            now, reasons = status(), health.at_risk()
            if self._loop.time() >= self._quiet_until_s:
                self.show(state_of(reasons, now["upstream"], now["depth"], self._config.backlog))
            if self._switches:
                self.switch({"temperature": self._celsius(), "backlog": now["depth"],
                             "devices": now["connected_devices"],
                             "away": now["upstream"] != "connected", "fault": bool(reasons)})
            await asyncio.sleep(LOOK_S)

    def close(self) -> None:
        """Give the pins back."""
        for part in (self._led, self._button, self._thermometer, *self._switches):
            if part is not None:
                part.close()
        self._led = self._button = self._thermometer = None
        self._switches = []
