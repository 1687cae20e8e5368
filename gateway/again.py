"""What is in flight, and what of it is sent again, held back, or put in its place. No I/O."""

from __future__ import annotations

from collections import deque
from operator import attrgetter

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
        """What was sent at QoS 0 in vain goes before what was first sent behind it. PUBRELs bring
        nothing, and need not wait for it."""
        last = max((e.order for e in self._again if not e.released), default=0)
        unsent, self._unsent = self._unsent, []
        early = sorted((e for e in unsent if not e.sent and e.order < last
                        and e.topic not in self.held), key=attrgetter("order"))
        self.in_flight.update((e.mid, e) for e in early if e.mid)
        gone, merged = set(map(id, early)), deque[Entry]()
        for lane in self.lanes if early else ():
            rest = [entry for entry in lane if id(entry) not in gone]
            lane.clear()
            lane.extend(rest)
        for entry in self._again:
            while not entry.released and early and early[0].order < entry.order:
                merged.append(early.pop(0))
            merged.append(entry)
        self._again = merged

    def hold(self, key: str) -> None:
        """Send nothing of a topic, or no PUBRELs, for now."""
        self.held.add(key)
        if self._again:
            self.shelf.extend(e for e in self._again if key_of(e) == key and not e.sent
                              and not e.mid)
            self._again = deque(e for e in self._again if key_of(e) != key)

    def again(self, key: str) -> None:
        """Send what is in flight of a held topic now; what came behind it waits."""
        there = set(map(id, self._again))
        self._again.extend(e for e in self.in_flight.values() if not e.sent_s
                           and key_of(e) == key and id(e) not in there)

    def alone(self, entry: Entry) -> None:
        """Send this one of a held topic next."""
        self._again = deque((entry, *(e for e in self._again if e is not entry)))

    def let(self, key: str) -> None:
        """Send what was held of a topic."""
        if key in self.held:
            self.held.discard(key)
            self.again(key)
            self.unshelve([entry for entry in self.shelf if entry.topic == key])

    def remove(self, entry: Entry) -> None:
        """Take an entry out of flight, or off the shelf."""
        if self.in_flight.get(entry.mid) is entry:
            del self.in_flight[entry.mid]
            self.open -= entry.sent_s > 0
        elif entry in self.shelf:
            self.shelf.remove(entry)
