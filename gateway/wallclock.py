"""The machine's wall clock, and whether anybody has set it.

A Pi has none that runs while it is off: it boots with the time at which it was shut down, or in
1970, and is set once the network is there.
"""

from __future__ import annotations

import ctypes
import time
from pathlib import Path

SOUND_MS = 1_735_689_600_000  # 2025: an earlier wall clock has not been set yet
TIME_ERROR = 5  # adjtimex(2): not synchronized
TIMEX_BYTES = 512  # more than any machine's struct timex; zeros: only ask
TIMESYNC = Path("/run/systemd/timesync/synchronized")  # for a service that may not ask the kernel


def utc_ms() -> int | None:
    """The wall clock [ms], None where it cannot have been set yet."""
    now_ms = int(time.time() * 1000)
    return now_ms if now_ms > SOUND_MS else None


def is_set() -> bool:
    """Whether a time service says that the clock is right; without one nobody does."""
    try:
        state = ctypes.CDLL(None).adjtimex(ctypes.create_string_buffer(TIMEX_BYTES))
    except (OSError, AttributeError):
        state = -1
    return 0 <= state < TIME_ERROR or TIMESYNC.exists()
