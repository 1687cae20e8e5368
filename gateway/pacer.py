"""When a batch is committed: a question of wear against latency. No I/O.

A commit of one message costs as many bytes as one of twenty.

- a busy gateway (BUSY_PER_S messages and releases a second, or `commit_bytes` waiting) commits at
  once, and so does one with a client that waits for us, see `hurry`;
- in a flood commits are GATHER_S apart: each costs the loop a sync;
- a quiet one may commit BURST times at once and then once every `commit_ms`.
"""

from __future__ import annotations

BURST = 4
BUSY_PER_S = 300
FLOOD_PER_S = 5000
GATHER_S = 0.001  # between two commits of a flood
SUDDEN = 10  # messages since the last commit from which their rate is believed


class Pacer:
    """Tells how long a batch should wait. Pure: the time is passed in, in seconds."""

    def __init__(self, commit_s: float, commit_bytes: int) -> None:
        self.commit_s, self.commit_bytes = commit_s, commit_bytes
        self._tokens, self._filled_s = float(BURST), 0.0
        self._rate, self._rate_s = 0.0, 0.0
        self._hurry_until_s = self._committed_s = 0.0

    def arrived(self, messages: int, now_s: float) -> None:
        """Count messages towards the rate, an average over about a second."""
        passed_s = now_s - self._rate_s
        self._rate = max(0.0, self._rate * (1 - passed_s)) + messages if passed_s < 1 else messages
        self._rate_s = now_s

    def flooded(self) -> bool:
        """Whether messages are so many that each pass over them counts."""
        return self._rate >= FLOOD_PER_S

    def hurry(self, now_s: float) -> None:
        """A client sent again as soon as it had our acknowledgement: it waits for us."""
        self._hurry_until_s = now_s + 0.5

    def delay_s(self, waiting_bytes: int, now_s: float, waiting: int = 0) -> float:
        """Seconds until the waiting batch of so many messages should be committed; 0 for now."""
        since_s = max(now_s - self._committed_s, 0.001)
        if waiting >= SUDDEN and waiting / since_s >= BUSY_PER_S:
            self._rate, self._rate_s = max(self._rate, waiting / since_s), now_s
        if self._rate >= FLOOD_PER_S and waiting_bytes < self.commit_bytes \
                and since_s < GATHER_S:
            return GATHER_S - since_s
        if self.commit_s <= 0 or waiting_bytes >= self.commit_bytes \
                or now_s < self._hurry_until_s or self._rate >= BUSY_PER_S:
            return 0.0
        self._fill(now_s)
        return 0.0 if self._tokens >= 1 else (1 - self._tokens) * self.commit_s

    def committed(self, now_s: float) -> None:
        """A commit was made."""
        self._fill(now_s)
        self._committed_s = now_s
        self._tokens = max(0.0, self._tokens - 1)

    def _fill(self, now_s: float) -> None:
        if self.commit_s > 0:
            gained = (now_s - self._filled_s) / self.commit_s
            self._tokens = min(float(BURST), self._tokens + gained)
        self._filled_s = now_s
