"""The gateway with its links' own deadlines shortened, for tests in which thousands of them pass.

    python -m tools.quick_gateway run -c FILE.toml            (as `tidegate run`)

Nothing else differs; how long they really are is tests/unit/test_liveness.py's business.
"""

from __future__ import annotations

from gateway import backoff, listener, liveness, paho_session
from gateway.cli import main


def shorten() -> None:
    """Half a second where there were nine, and tries again at once."""
    backoff.BACKOFF_FIRST_S = backoff.BACKOFF_MOST_S = 0.01
    liveness.PING_S = liveness.ANSWER_S = 0.25
    liveness.DEAD_S = 0.5
    liveness.LOOK_S = liveness.LEAVING_S = 0.05
    paho_session.CONNECT_TIMEOUT_S = 0.5
    listener.SWEEP_S = 0.05


if __name__ == "__main__":
    shorten()
    main()
