"""What the tests of the outbox begin and begin again with."""

from __future__ import annotations

from gateway.batch import LANE_SHIFT, Entry
from gateway.journal import PAGE, RESERVE_BYTES
from gateway.outbox import Outbox
from gateway.routes import LIVE

SMALL = RESERVE_BYTES + 4 * PAGE  # a journal for few commits


def entry(number: int, lane: int = LIVE, *, mid: int = 0, qos: int = 2, source: str = "s",
          route: str = "#", payload: bytes = b"payload", age_s: int = 0) -> Entry:
    return Entry(lane << LANE_SHIFT | number, mid, qos, False, False, age_s, route, source, "t",
                 payload)


def crashed(outbox: Outbox) -> Outbox:
    """As kill -9 leaves it."""
    outbox._db.close()
    outbox.journal.close()
    return Outbox(outbox.path)


def reopened(outbox: Outbox) -> Outbox:
    outbox.close()
    return Outbox(outbox.path)
