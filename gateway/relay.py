"""A fan, a lamp or a relay that follows a rule. Pure: readings and the time in, on or off out.

    temperature > 60    the CPU's [°C]         away     no upstream
    backlog > 1000      messages waiting       fault    what /readyz fails for
    devices < 3         connected clients

A rule with a number holds until the reading is back at `back`, so that a fan does not stutter. A
reading that nobody has holds no rule.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from msgspec import Struct

_RULE = re.compile(r"(temperature|backlog|devices)\s*([<>])\s*(\d+(?:\.\d+)?)")
WORDS = ("away", "fault")
MARGIN = {"temperature": 5.0, "backlog": 0.0, "devices": 0.0}
AFTER_MOST_S = 86_400.0

Readings = Mapping[str, float | None]
"""Each name of a rule → its value; 1 or 0 for a word; None where it is not known."""


class RelayConfig(Struct, forbid_unknown_fields=True):
    """`[[panel.relay]]`: a GPIO number (BCM) and its rule.

    back: the reading at which it goes off again; None: the rule's number, for a temperature 5
    below (or above). after_s: how long the rule has to hold before it goes on [s].
    """

    pin: int
    when: str
    back: float | None = None
    after_s: float = 0.0
    active_high: bool = True

    def rule(self) -> tuple[str, str, float]:
        """Name, `<` or `>`, and number; a word is "> 0". Raises ValueError."""
        if self.when.strip() in WORDS:
            return self.when.strip(), ">", 0.0
        found = _RULE.fullmatch(self.when.strip())
        if not found:
            raise ValueError(self.when)
        return found[1], found[2], float(found[3])

    def back_at(self) -> float:
        """The reading at which it goes off again."""
        name, sign, number = self.rule()
        margin = MARGIN.get(name, 0.0)
        return self.back if self.back is not None else number + (margin, -margin)[sign == ">"]

    def problem(self) -> tuple[str, str] | None:
        """What is wrong, as key and text; None where all is well."""
        if not 0 <= self.pin <= 27:
            return "pin", f"{self.pin}: a GPIO number, 0 to 27"
        try:
            name, sign, number = self.rule()
        except ValueError:
            return "when", (f"{self.when!r}: write temperature > 60, backlog > 1000, devices < 3, "
                            "away or fault")
        if self.back is not None:
            if name in WORDS:
                return "back", f"{self.back}: only for a rule with a number"
            if not (self.back <= number if sign == ">" else self.back >= number):
                return "back", (f"{self.back:g}: with {self.when!r} at "
                                f"{'most' if sign == '>' else 'least'} {number:g}")
        if not 0 <= self.after_s <= AFTER_MOST_S:
            return "after_s", f"{self.after_s:g}: 0 to {AFTER_MOST_S:.0f}"
        return None


class Relay:
    """One rule, followed."""

    def __init__(self, config: RelayConfig) -> None:
        self.config, self.on = config, False
        self.name, self._sign, self._number = config.rule()
        self._back = config.back_at()
        self._since_s: float | None = None  # the rule has held from then on

    def follow(self, readings: Readings, now_s: float) -> bool:
        """Whether it should be on, by a clock that does not jump."""
        value = readings[self.name]
        limit = self._back if self.on else self._number
        if value is None or not (value > limit if self._sign == ">" else value < limit):
            self._since_s, self.on = None, False
        else:
            self._since_s = now_s if self._since_s is None else self._since_s
            self.on = self.on or now_s - self._since_s >= self.config.after_s
        return self.on
