"""What was sent at QoS 0: nobody acknowledges it, but the other end's TCP takes its bytes. No I/O.

Until then it stays on disk, and where the link is lost before that, it is sent again: the first
may come twice, none of what was still with us is lost. What the other end's TCP took and its
program never read is lost, as QoS 0 allows.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from gateway.batch import Entry


class Unproven:
    """Entries in the order in which they were sent. Bounded by what may be in memory at all."""

    def __init__(self) -> None:
        self._sent: deque[tuple[float, list[Entry]]] = deque()

    def __bool__(self) -> bool:
        return bool(self._sent)

    def sent(self, entries: list[Entry], written_s: float) -> None:
        """These go out with a write at or after written_s [s]."""
        self._sent.append((written_s, entries))

    def arrived(self, left_s: Callable[[float], float | None]) -> list[Entry]:
        """Take out those that have left; left_s: see Upstream."""
        gone: list[Entry] = []
        while self._sent and left_s(self._sent[0][0]) is not None:
            gone += self._sent.popleft()[1]
        return gone

    def lost(self) -> list[Entry]:
        """Take out all others: the link is gone."""
        again = [entry for _, entries in self._sent for entry in entries]
        self._sent.clear()
        return again
