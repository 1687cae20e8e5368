"""Logs as `level event key=value …`, one line each, for journald and people."""

from __future__ import annotations

import logging
import os
import sys

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


def set_up(level: str) -> None:
    """Log to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("JOURNAL_STREAM" in os.environ))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
