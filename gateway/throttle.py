"""Who failed to log in has to wait before the next try is looked at. Pure; times in seconds.

Failures are counted by address, since a name can be made up. Each doubles the wait, from FIRST_S
to MOST_S; CALM_S without one forgets them. A password known to be right never waits, see door.py.
"""

from __future__ import annotations

from collections import OrderedDict

FIRST_S, MOST_S, CALM_S = 0.25, 8.0, 60.0
ADDRESSES_MOST = 4096


class Throttle:
    """Failures by address."""

    def __init__(self) -> None:
        self._failed: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def failed(self, address: str, now_s: float) -> None:
        """Note a failed login."""
        count = self._count(address, now_s) + 1
        self._failed[address] = count, now_s
        self._failed.move_to_end(address)
        if len(self._failed) > ADDRESSES_MOST:
            self._failed.popitem(last=False)

    def delay_s(self, address: str, now_s: float) -> float:
        """How long the next try, or the answer to a failed one, has to wait [s]."""
        count = self._count(address, now_s)
        return min(MOST_S, FIRST_S * 2 ** min(count - 1, 16)) if count else 0.0

    def _count(self, address: str, now_s: float) -> int:
        count, last_s = self._failed.get(address, (0, now_s))
        return count if now_s - last_s < CALM_S else 0
