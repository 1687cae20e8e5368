"""Packet identifiers: which are taken, and which one is next (section 2.3.1). No I/O.

An identifier is free again only when the end of its message is on disk, and the one that was free
the longest is used first. The first after a start is a random one: what a broker still holds
under an identifier, for whatever reason, is then seldom met (EMQX answers 0x91).
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterable

MIDS = 65_535


class Mids:
    """The packet identifiers of one session."""

    def __init__(self) -> None:
        self.taken: set[int] = set()
        self.free: deque[int] = deque()
        self.restore(())

    def restore(self, taken: Iterable[int]) -> None:
        """Begin with these in use."""
        first = random.randrange(MIDS)
        self.taken = set(taken)
        self.free = deque(mid for n in range(MIDS)
                          if (mid := (first + n) % MIDS + 1) not in self.taken)

    def take_mids(self, count: int) -> list[int]:
        """Up to `count` free packet identifiers, now taken; the longest unused first."""
        mids = [self.free.popleft() for _ in range(min(count, len(self.free)))]
        self.taken.update(mids)
        return mids

    def free_mids(self, mids: Iterable[int]) -> None:
        """Give packet identifiers back: their end is on disk, or they were never used."""
        for mid in mids:
            if mid in self.taken:
                self.taken.discard(mid)
                self.free.append(mid)

    def short(self) -> bool:
        """Whether most packet identifiers are taken."""
        return len(self.free) < MIDS // 2
