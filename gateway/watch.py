"""The heartbeat: it goes on only while the event loop, the disk's thread and the commits do."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from gateway.commit import Committer

STUCK_S = 30.0  # a batch that waits so long, with nothing wrong with the disk, is our own fault


class Beat:
    """Asks the outbox's thread for an answer, again and again.

    A loop that hangs does not ask, a disk that hangs does not answer; either way nothing is fed.
    A disk that answers with an error is not the watchdog's: a restart would not mend it.
    """

    def __init__(self, committer: Committer, period_s: float) -> None:
        self.period_s = period_s
        self.last_s = time.monotonic()
        self._committer = committer
        self._commits = -1
        self._moved_s = self.last_s

    async def run(self, fed: Callable[[], None]) -> None:
        """For ever. fed: called at each beat."""
        while True:
            await self._committer.read(lambda: None)
            if self._moving():
                self.last_s = time.monotonic()
                fed()
            await asyncio.sleep(self.period_s)

    def _moving(self) -> bool:
        committer, now_s = self._committer, time.monotonic()
        if committer.commits != self._commits or committer.failing or committer.batch.empty():
            self._commits, self._moved_s = committer.commits, now_s
        return now_s - self._moved_s < STUCK_S

    def late(self) -> bool:
        """Whether a beat is missing."""
        return time.monotonic() - self.last_s > 3 * self.period_s + 1
