"""What the log says of an outage: why it is, and then little for as long as it lasts. Pure.

The rules, for tries in vain one after the other:

- the first is told, and each that has another reason. Reasons that come in turn are one trouble,
  not a hundred: each is told once between two reminders;
- a reminder says how long it lasts, how many tries there were and what the last reason is:
  REMIND_FIRST_S after the first try in vain, then after times that double up to REMIND_MOST_S;
- all other tries are at DEBUG.
"""

from __future__ import annotations

import logging

REMIND_FIRST_S, REMIND_MOST_S = 60.0, 3600.0


class Outage:
    """One outage, from the first try in vain. now_s: monotonic."""

    def __init__(self) -> None:
        self.tries = 0
        self._began_s = 0.0
        self._remind_s, self._remind_after_s = 0.0, REMIND_FIRST_S
        self._told: set[str] = set()  # since the last reminder

    def lasts_s(self, now_s: float) -> float:
        """Return how long it has lasted; 0 before the first try in vain."""
        return now_s - self._began_s if self.tries else 0.0

    def failed(self, reason: str, now_s: float) -> tuple[int, str]:
        """Count a try in vain; returns the level and the text to log."""
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

    def summary(self, now_s: float) -> str:
        """Return what to say of it now that it is over; nothing where no try was in vain."""
        return f" away_s={self.lasts_s(now_s):.1f} tries={self.tries}" if self.tries else ""
