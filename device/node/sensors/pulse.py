"""Pulses of a meter (S0, reed, flow): how many since the last record, and since the boot.

    {"kind": "pulse", "name": "water", "pin": 27, "value": "volume_l", "unit": "l",
     "per_pulse": 0.5, "debounce_ms": 20, "period_s": 60}
"""

import time

from node.sensor import Sensor


class Pulse(Sensor):
    def open(self, settings, board):
        pin = board.machine.Pin
        self.UNITS = (
            (settings.get("value", "pulses"), settings.get("unit", "")),
            ("total", settings.get("unit", "")),
        )
        self._per = settings.get("per_pulse", 1)
        self._debounce_ms = settings.get("debounce_ms", 20)
        self._count = self._taken = 0
        self._last = time.ticks_ms()
        self._pin = pin(settings["pin"], pin.IN, pin.PULL_UP)
        self._pin.irq(self._pulse, pin.IRQ_FALLING)

    def _pulse(self, _pin):
        now = time.ticks_ms()
        # After 6 days without a pulse the difference is negative: that was no bounce.
        if not 0 <= time.ticks_diff(now, self._last) < self._debounce_ms:
            self._count += 1
            self._last = now

    def read(self):
        count = self._count
        since, self._taken = count - self._taken, count
        return since * self._per, count * self._per


make = Pulse
