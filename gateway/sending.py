"""When what was written to a link had left: a slow line is not a dead one. No I/O.

  written ──▶ handed to the kernel ──▶ taken by the peer's TCP

A deadline for an answer counts from the last step, see upstream.py and drain.py. Times are
monotonic seconds, passed in. Positions are bytes of the stream, ours before the kernel and TCP's
behind it: TLS and WebSocket make the two differ.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from typing import NamedTuple

STEP_S = 0.25  # what was written within it is looked at as one
MOST = 4096  # marks kept of each step, about 17 min of them


class Mark(NamedTuple):
    """What was written by `written_s` ends here."""

    written_s: float
    end: int


class Sending:
    """One connection's outgoing stream. moved_s: when the peer last took any of it."""

    def __init__(self, now_s: float) -> None:
        self.moved_s = now_s
        self._began_s = now_s  # of the newest mark
        self._written: deque[Mark] = deque()
        self._handed: deque[Mark] = deque()
        self._left: deque[tuple[float, float]] = deque(maxlen=MOST)  # written, left
        self._taken = 0

    def wrote(self, now_s: float, end: int) -> None:
        """Bytes up to `end` (ours) are written."""
        if self._written and (now_s - self._began_s < STEP_S or len(self._written) >= MOST):
            self._written[-1] = Mark(now_s, end)
            return
        self._began_s = now_s
        self._written.append(Mark(now_s, end))

    def handed(self, end: int, tcp_end: int | None, now_s: float) -> None:
        """Bytes up to `end` (ours) are with the kernel, and end at `tcp_end` (TCP's; None where
        the system does not say, and they count as gone)."""
        mark = None
        while self._written and self._written[0].end <= end:
            mark = self._written.popleft()
        if mark is None:
            return
        if tcp_end is None:
            self.moved_s = now_s
            self._left.append((mark.written_s, now_s))
        elif len(self._handed) < MOST:
            self._handed.append(Mark(mark.written_s, tcp_end))
        else:
            self._handed[-1] = Mark(mark.written_s, tcp_end)

    def waits(self, now_s: float) -> bool:
        """Whether `handed` is to be told now, which costs two calls of the kernel."""
        return bool(self._written) and now_s - self._written[0].written_s >= STEP_S

    def taken(self, tcp_end: int, now_s: float) -> None:
        """The peer's TCP has taken bytes up to `tcp_end` (TCP's)."""
        if tcp_end > self._taken:
            self._taken, self.moved_s = tcp_end, now_s
        mark = None
        while self._handed and self._handed[0].end <= tcp_end:
            mark = self._handed.popleft()
        if mark is not None:
            self._left.append((mark.written_s, now_s))

    def left_s(self, written_s: float) -> float | None:
        """When all that was written by then had left [s]; None while it is under way."""
        if not self._left or self._left[-1][0] < written_s:
            return None
        return self._left[bisect_left(self._left, (written_s, 0.0))][1]
