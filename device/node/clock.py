"""Uptime that does not wrap."""


class Uptime:
    """Count milliseconds since the start; ask it at least once in six days.

    ticks_ms, ticks_diff: as in MicroPython's `time`; ticks may wrap, the sum does not.
    start_ms: where to go on from, after a deep sleep.
    """

    def __init__(self, ticks_ms, ticks_diff, start_ms=0):
        self.ticks_ms = ticks_ms
        self.ticks_diff = ticks_diff
        self._last = ticks_ms()
        self._ms = start_ms

    def now(self):
        """Return the uptime [ms]."""
        ticks = self.ticks_ms()
        step = self.ticks_diff(ticks, self._last)
        if step > 0:  # a tick that steps back (it does on some ports after a sleep) adds nothing
            self._ms += step
            self._last = ticks
        return self._ms
