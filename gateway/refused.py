"""What the upstream refused and the gateway set aside: try it again, or let it go.

Done to an outbox that no gateway runs on: its lock is taken, and each step is committed as the
gateway's own are, so that a crash in the middle loses nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing
from pathlib import Path

from gateway.batch import LANE_SHIFT, Batch, in_lane
from gateway.errors import OutboxError
from gateway.outbox import Outbox
from gateway.routes import BACKLOG, REFUSED
from gateway.topics import matches

STEP_ROWS = 1000
_FIRST = REFUSED << LANE_SHIFT

Found = list[tuple[int, int]]  # key and packet identifier


def retry(path: Path, topic_filter: str = "#") -> int:
    """Send them with the backlog when the gateway starts; return how many.

    A packet identifier under which the upstream may still hold a message is used again for it.
    Raises OutboxError.
    """
    return _each(path, topic_filter, lambda found: Batch(
        moved=[(key, in_lane(BACKLOG, key), mid) for key, mid in found]))


def drop(path: Path, topic_filter: str = "#") -> int:
    """Delete them for good; return how many. Raises OutboxError."""
    return _each(path, topic_filter, lambda found: Batch(drop=[key for key, _ in found]))


def count(path: Path, topic_filter: str = "#") -> int:
    """Return how many there are. Raises OutboxError."""
    with _opened(path) as outbox:
        return sum(map(len, _steps(outbox, topic_filter)))


def _each(path: Path, topic_filter: str, batch_of: Callable[[Found], Batch]) -> int:
    """Commit a batch for some of them at a time; return how many there were."""
    count = 0
    with _opened(path) as outbox:
        for found in _steps(outbox, topic_filter):
            outbox.apply(batch_of(found))
            count += len(found)
    return count


def _opened(path: Path) -> AbstractContextManager[Outbox]:
    if not path.exists():
        raise OutboxError(f"{path}: no outbox here yet; nothing was ever set aside")
    return closing(Outbox(path))


def _steps(outbox: Outbox, topic_filter: str) -> Iterator[Found]:
    after, more = _FIRST - 1, True
    while more:
        rows = outbox.reader().execute(
            "SELECT key, mid, topic FROM now WHERE key > ? ORDER BY key LIMIT ?",
            (after, STEP_ROWS)).fetchall()
        more = len(rows) == STEP_ROWS
        if rows:
            after = rows[-1][0]
        if found := [(key, mid) for key, mid, topic in rows if matches(topic_filter, topic)]:
            yield found
