"""Waiting for something to become true, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
LOOK_S = 0.005


def wait_until(what: Callable[[], T], timeout_s: float = 10.0, hint: str = "") -> T:
    """Return what `what` returns once that is true; raises TimeoutError after timeout_s [s]."""
    deadline = time.monotonic() + timeout_s
    while True:
        found = what()
        if found:
            return found
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {timeout_s} s: {hint or found!r}")
        time.sleep(LOOK_S)
