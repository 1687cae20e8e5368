"""What waits in memory to be sent: in its lane, or kept back beside the lanes. No I/O."""

from __future__ import annotations

from collections import deque

from gateway.batch import LANE_SHIFT, Entry


class Lanes:
    """lanes: urgent, live and backlog, each in its order. shelf: taken out of them for now."""

    def __init__(self) -> None:
        self.lanes: tuple[deque[Entry], ...] = (deque(), deque(), deque())
        self.shelf: deque[Entry] = deque()

    def add(self, entries: list[Entry]) -> None:
        """Entries to be sent, in the order given within each lane."""
        lanes = self.lanes
        for entry in entries:
            if not entry.sent:  # else superseded before it came here
                lanes[entry.key >> LANE_SHIFT].append(entry)

    def queues(self) -> tuple[deque[Entry], ...]:
        """All that was not sent yet, or that is to be sent as if it was not."""
        return (*self.lanes, self.shelf)

    def queued(self) -> int:
        """Entries in memory that were not sent yet."""
        return sum(map(len, self.queues()))

    def put_back(self, entries: list[Entry]) -> None:
        """Send these before the others of their lanes."""
        for entry in reversed(entries):
            self.lanes[entry.key >> LANE_SHIFT].appendleft(entry)

    def unshelve(self, entries: list[Entry]) -> None:
        """Send these of the shelf before the others of their lanes."""
        if entries:
            gone = set(map(id, entries))
            self.shelf = deque(entry for entry in self.shelf if id(entry) not in gone)
            self.put_back(entries)
