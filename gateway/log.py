"""Logs as `level event key=value …`, one line each, for journald and people."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Callable

SAME_MOST, WINDOW_S = 20, 10.0  # lines of one kind in that time; the rest is counted
_LEVELS = {"DEBUG": 7, "INFO": 6, "WARNING": 4, "ERROR": 3, "CRITICAL": 2}


class _Formatter(logging.Formatter):
    """journald stamps the time itself and reads the level from `<n>`."""

    def __init__(self, journal: bool) -> None:
        super().__init__("%(message)s" if journal else
                         "%(asctime)s %(levelname)-7s %(name)s: %(message)s")
        self._journal = journal

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return f"<{_LEVELS.get(record.levelname, 6)}>{text}" if self._journal else text


class Calm(logging.Filter):
    """In a storm, SAME_MOST lines of one kind in WINDOW_S; then a count of the others.

    A kind is a logger and the text before its values are put in.
    """

    def __init__(self, now_s: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._now_s = now_s
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to let a record through; it may say how many were held back before it."""
        kind, now_s = (record.name, str(record.msg)), self._now_s()
        began_s, count = self._seen.get(kind, (now_s, 0))
        if now_s - began_s >= WINDOW_S:
            if count > SAME_MOST:
                record.msg = f"{record.msg} (and {count - SAME_MOST} like it before, not shown)"
            began_s, count = now_s, 0
        self._seen[kind] = began_s, count + 1
        return count < SAME_MOST

    def over(self) -> list[tuple[str, str, int]]:
        """Storms that are over: the logger, the kind, and how many lines were held back."""
        now_s = self._now_s()
        ended = [kind for kind, (began_s, _) in self._seen.items() if now_s - began_s >= WINDOW_S]
        counts = [(*kind, self._seen.pop(kind)[1] - SAME_MOST) for kind in ended]
        return [found for found in counts if found[2] > 0]


_calm = Calm()


def tell_held_back() -> None:
    """Log how many lines a storm had beyond those shown, once it is over; from time to time."""
    for name, text, count in _calm.over():
        logging.getLogger(name).warning("%d more lines not shown like=%r", count, text)


def set_up(level: str) -> None:
    """Log to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_calm)
    handler.setFormatter(_Formatter("JOURNAL_STREAM" in os.environ))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
