"""What a run may do, and how it says that a promise was broken."""

from __future__ import annotations

from dataclasses import dataclass


class BrokenError(AssertionError):
    """The gateway broke a promise."""


def hold(kept: bool, broken: str) -> None:
    """Raises BrokenError where a promise is not kept."""
    if not kept:
        raise BrokenError(broken)


@dataclass(frozen=True)
class Options:
    """What may happen in a run.

    crash: kill -9, in crash_share of all steps. full: a disk without room. refuse: reason codes
    from the broker. big: messages over the broker's limit. forget: the broker may lose its
    session. policies: a small outbox and routes that drop. reload: the routes change. contract: a
    device sends batches. narrow: a Receive Maximum of 1 or 2, and most messages at QoS 0.
    max_qos: the broker's. late: it delivers with the PUBREL (method B). says: it answers as EMQX
    at MQTT 5, 0x91 and 0x92. passing: codes that speak of itself.
    """

    name: str
    crash: bool = False
    full: bool = False
    refuse: bool = False
    big: bool = False
    forget: bool = False
    policies: bool = False
    reload: bool = False
    contract: bool = False
    narrow: bool = False
    crash_share: float = 0.015
    max_qos: int = 2
    late: bool = False
    says: bool = False
    passing: bool = False
