"""Is the promise at risk? For /readyz, /healthz, the panel and the metrics. No I/O.

An upstream that is away is no reason: bridging that is what the gateway is for. Neither is a
broker that we subscribe to: what it keeps is its own promise, see local_broker.py.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gateway.watch import Beat

if TYPE_CHECKING:
    from gateway.bridge import Bridge

FULL = 0.95  # of the outbox's cap


def risks(bridge: Bridge) -> list[str]:
    """What puts the promise at risk while everything moves."""
    reasons = []
    if bridge.committer.failing:
        reasons.append(f"disk: {bridge.committer.failing}")
    if bridge.queue.used_bytes > bridge.queue.max_bytes * FULL:
        reasons.append("outbox: full")
    reasons += same_id(bridge)
    if bridge.utc_ms() is None:
        reasons.append("clock: not set yet")
    return reasons


def same_id(bridge: Bridge) -> list[str]:
    """Which link seems to be another's too; see duel.py."""
    links = {"upstream": bridge.upstream}
    if bridge.local_broker is not None:
        links["broker"] = bridge.local_broker.link
    return [f"{name}: {link.duel.told}" for name, link in links.items() if link.duel.told]


class Health:
    """Reasons, in words; none is good."""

    def __init__(self, bridge: Bridge, beat: Beat) -> None:
        self._bridge, self._beat = bridge, beat

    def sick(self) -> list[str]:
        """What only a restart could mend."""
        return ["watchdog: the disk's thread or the commits do not move"] \
            if self._beat.late() else []

    def at_risk(self) -> list[str]:
        """Why devices should not count on an acknowledgement, or on the time in it."""
        return self.sick() + risks(self._bridge)
