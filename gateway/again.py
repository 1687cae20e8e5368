"""What is in flight, and what of it is sent again, held back, or put in its place. No I/O."""

from __future__ import annotations

from collections import deque

from gateway.batch import Entry
from gateway.lanes import Lanes

PUBRELS = ""  # stands for all PUBRELs where what is held back is named by its topic


def key_of(entry: Entry) -> str:
    """By what an entry is held back: what is next of it is a PUBREL, or goes to a topic."""
    return PUBRELS if entry.released else entry.topic


class Again(Lanes):
    """held: topics, and PUBRELS, of which nothing is sent."""

    def __init__(self) -> None:
        super().__init__()
        self.in_flight: dict[int, Entry] = {}  # by packet identifier, in order of first send
        self.held: set[str] = set()
        self.open = 0  # of in_flight, those sent on this connection: what Receive Maximum limits
        self.acknowledged = 0  # messages done, ever
        self._again: deque[Entry] = deque()  # to send before anything new
        self._unsent: list[Entry] = []  # of the lanes, first in theirs

    def unsend(self, entries: list[Entry]) -> None:
        """Entries that ended by being sent (QoS 0) did not leave: in their place again."""
        for entry in entries:
            entry.sent, entry.sent_s = False, 0.0
        self.put_back(entries)
        self._unsent = entries + self._unsent
        self.acknowledged -= len(entries)

    def _merge_unsent(self) -> None:
        """What was sent at QoS 0 in vain goes before what was sent behind it."""
        unsent, again = self._unsent, self._again
        self._unsent, self._again = [], deque()
        for entry in again:
            for lane in self.lanes[:entry.lane + 1]:
                while lane and lane[0].key < entry.key and lane[0] in unsent:
                    self._again.append(lane.popleft())
            self._again.append(entry)

    def hold(self, key: str) -> None:
        """Send nothing of a topic, or no PUBRELs, for now."""
        self.held.add(key)
        if self._again:
            self._again = deque(e for e in self._again if key_of(e) != key)

    def again(self, key: str) -> None:
        """Send what is in flight of a held topic now; what came behind it waits."""
        self._again.extend(e for e in self.in_flight.values() if not e.sent_s
                           and key_of(e) == key)

    def alone(self, entry: Entry) -> None:
        """Send this one of a held topic next."""
        self._again.appendleft(entry)

    def let(self, key: str) -> None:
        """Send what was held of a topic."""
        if key in self.held:
            self.held.discard(key)
            there = set(map(id, self._again))
            self._again.extend(e for e in self.in_flight.values() if not e.sent_s
                               and key_of(e) == key and id(e) not in there)
            self.unshelve([entry for entry in self.shelf if entry.topic == key])

    def remove(self, entry: Entry) -> None:
        """Take an entry out of flight, or off the shelf."""
        if self.in_flight.get(entry.mid) is entry:
            del self.in_flight[entry.mid]
            self.open -= entry.sent_s > 0
        elif entry in self.shelf:
            self.shelf.remove(entry)
