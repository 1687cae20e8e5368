"""The gateway with a wall clock that can be wrong and be set, as on a Pi without an RTC.

    TIDEGATE_CLOCK=FILE python -m tools.hil.clocked_gateway run -c FILE.toml

FILE holds how many seconds the clock is off; it is read again while the gateway runs. The faults
of tools.faulty_gateway can be planted by its environment variables. Only this process's
`time.time` and `time.time_ns` are changed; time.monotonic is not, as on a real machine.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

LOOK_S = 0.05


def shift(file: Path) -> None:
    """Let the wall clock of this process be off by what the file says [s]."""
    true_ns, state = time.time_ns, {"offset_ns": 0, "looked": -1.0}

    def time_ns() -> int:
        now = time.monotonic()
        if now - state["looked"] > LOOK_S:
            state["looked"] = now
            try:
                state["offset_ns"] = int(float(file.read_text()) * 1e9)
            except (OSError, ValueError):  # being written
                pass
        return true_ns() + int(state["offset_ns"])

    time.time_ns = time_ns
    time.time = lambda: time_ns() / 1e9


def main() -> None:
    """Set the clock, then be the gateway, with a fault where the environment names one."""
    if os.environ.get("TIDEGATE_CLOCK"):
        shift(Path(os.environ["TIDEGATE_CLOCK"]))
    if any(os.environ.get(name) for name in ("TIDEGATE_FAULT", "TIDEGATE_DISK")):
        from tools.faulty_gateway import main as start
    else:
        from gateway.cli import main as start
    start()


if __name__ == "__main__":
    main()
