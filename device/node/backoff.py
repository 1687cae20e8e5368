"""When to try again: exponential backoff with full jitter.

After an outage a house full of boards must not knock at the same instant, so the wait is drawn
from all of 0 to the cap, not from a band around it ("full jitter": the fewest calls of the usual
variants for the same time to recover).
"""


class Backoff:
    """Waits that grow from base_ms to cap_ms."""

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
