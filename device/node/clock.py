"""Time: an uptime that does not wrap, and when to try again."""


class Uptime:
    """Count milliseconds since the start; ask it at least once in six days.

    ticks_ms, ticks_diff: as in MicroPython's `time`; ticks may wrap, the sum does not.
    """

    def __init__(self, ticks_ms, ticks_diff):
        self.ticks_ms = ticks_ms
        self.ticks_diff = ticks_diff
        self._last = ticks_ms()
        self._ms = 0

    def now(self):
        """Return the uptime [ms]."""
        ticks = self.ticks_ms()
        step = self.ticks_diff(ticks, self._last)
        if step > 0:  # a tick that steps back (it does on some ports after a sleep) adds nothing
            self._ms += step
            self._last = ticks
        return self._ms


class Backoff:
    """Exponential backoff with full jitter: waits that grow from base_ms to cap_ms.

    After an outage a house full of boards must not knock at the same instant, so the wait is
    drawn from all of 0 to the cap, not from a band around it (the fewest calls of the usual
    variants for the same time to recover).
    """

    def __init__(self, base_ms=500, cap_ms=30000):
        self.base_ms = base_ms
        self.cap_ms = cap_ms
        self.tries = 0

    def next_ms(self, rand):
        """Return how long to wait [ms] before the next try. rand: from 0 up to 1, not 1."""
        span = self.cap_ms
        if self.tries < 20 and (self.base_ms << self.tries) < span:
            span = self.base_ms << self.tries
            self.tries += 1
        return int(span * rand)

    def reset(self):
        """Say that it worked: the next failure starts over."""
        self.tries = 0
