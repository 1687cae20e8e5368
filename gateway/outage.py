"""What the log says of an outage: why it is, and then little for as long as it lasts. Pure.

The rules, for tries in vain one after the other:

- the first is told, and each that has another reason. Reasons that come in turn are one trouble,
  not a hundred: each is told once between two reminders;
- a reminder says how long it lasts, how many tries there were and what the last reason is:
  REMIND_FIRST_S after the first try in vain, then after times that double up to REMIND_MOST_S;
- a connection that ends within STOOD_S was one more try in vain, and the outage goes on. After the
  second such one the next are told only when one of them stands;
- all other tries are at DEBUG.
"""

from __future__ import annotations

import logging

REMIND_FIRST_S, REMIND_MOST_S = 60.0, 3600.0
STOOD_S = 10.0


class Outage:
    """One outage after the other, each from its first try in vain. now_s: monotonic."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self.tries = 0
        self._began_s = 0.0
        self._remind_s, self._remind_after_s = 0.0, REMIND_FIRST_S
        self._told: set[str] = set()  # since the last reminder
        self._up_s: float | None = None  # since when the link is up
        self.fell = 0  # connections that did not stand

    def lasts_s(self, now_s: float) -> float:
        """Return how long it has lasted; 0 before the first try in vain."""
        return now_s - self._began_s if self.tries else 0.0

    def failed(self, reason: str, now_s: float) -> tuple[int, str]:
        """Count a try in vain, or the end of the link; returns the level and the text to log."""
        up_s, self._up_s = self._up_s, None
        if up_s is not None and now_s - up_s < STOOD_S:
            self.fell += 1
        elif up_s is not None:
            self._begin()
        if not self.tries:
            self._began_s, self._remind_s = now_s, now_s + self._remind_after_s
        self.tries += 1
        if now_s >= self._remind_s:
            self._remind_after_s = min(2 * self._remind_after_s, REMIND_MOST_S)
            self._remind_s = now_s + self._remind_after_s
            self._told = {reason}
            return logging.WARNING, (f"still away away_s={self.lasts_s(now_s):.0f} "
                                     f"tries={self.tries} reason={reason!r}")
        level = logging.DEBUG if reason in self._told else logging.WARNING
        self._told.add(reason)
        return level, f"away reason={reason!r} try={self.tries}"

    def opened(self, now_s: float) -> tuple[int, str]:
        """The link is up; returns the level and what to add to the line that says so."""
        self._up_s = now_s
        return (logging.INFO if self.fell < 2 else logging.DEBUG), self._summary(now_s)

    def stands(self, now_s: float) -> str:
        """End the outage where the link stands; returns what to say of that, "" for nothing.

        To be asked from time to time.
        """
        up_s = self._up_s
        if up_s is None or now_s - up_s < STOOD_S or not self.tries:
            return ""
        told = f"stands{self._summary(up_s)}" if self.fell > 1 else ""
        self._begin()
        self._up_s = up_s
        return told

    def _summary(self, now_s: float) -> str:
        return f" away_s={self.lasts_s(now_s):.1f} tries={self.tries}" if self.tries else ""
