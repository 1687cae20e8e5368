"""Which packet does a broker close the link over? Pure.

MQTT 3.1.1 has no way to refuse one PUBLISH: a broker that does not like a topic or a size closes
the connection, and would do so again after every reconnect. So does one whose limit we are over,
and one that is in trouble; rumqttd closes over a PUBREL that it has completed. The rules, after a
close for which no reason code excuses us (reasons.NOBODY):

- the packets that were not answered are suspects. On the next connection the first of them goes
  first and alone; is it answered, half of the others follow, and so on: a close is over one of
  fewer each time. When all are answered nobody was to blame. If that took more than one close, the
  number in flight was: `window` is half of the least that was too much.
- one over which it closed alone is accused, with all that is behind it on its topic (or all
  PUBRELs): they wait, and the others flow; no search asks for what waits. After HOLD_S in which
  others passed it goes alone again.
- TRIALS closes over it alone, with others passing in between, and it is to blame. Where nobody
  else passes, nobody is: the broker is in trouble.
- the next on a topic that was to blame before is accused without a search, and one close more is
  enough.

A close costs a reconnect of about a second. A bad link blames nobody: a close by it is as likely
to hit the one as the other, and an answer clears it.
"""

from __future__ import annotations

from gateway.again import PUBRELS, key_of
from gateway.batch import Entry
from gateway.flight import Flight

TRIALS = 3
HOLD_S = 1.0
ALONE_S = 3.0  # without any others it goes again after so long
ACCUSED_MOST = 100
KNOWN_MOST = 256
FREE, PROBE, HALVES, EMPTYING, TRIAL = "free", "probe", "halves", "emptying", "trial"


class Caution:
    """Watches how connections end, and says how the next one is to begin.

    own_topic: what costs nothing to drop; others may have passed on a connection before.
    accused: topics, or PUBRELS, that wait. most: of unanswered packets, None for as many as may
    be. window: what was learnt of it, 0 for nothing; the reader sets it back.
    """

    def __init__(self, own_topic: str = "") -> None:
        self._own_topic = own_topic
        self._passed_before = False  # of others, since something was accused
        self.accused: dict[str, int] = {}  # with the packet identifier of the one itself
        self.most: int | None = None
        self.window = 0
        self._phase = FREE
        self._suspects: list[tuple[Entry, str]] = []  # with what they were named by then
        self._alone: tuple[Entry, str] | None = None
        self._failed_at = self._closes = 0  # in this search
        self._passed = 0  # answers on this connection
        self._since_s = 0.0
        self._known: dict[str, None] = {}  # topics that were to blame

    @property
    def active(self) -> bool:
        """Whether there is anything to find out."""
        return bool(self._suspects or self.accused)

    def connected(self, flight: Flight, now_s: float) -> Entry | None:
        """A connection stands; returns what is to go first, if there is such."""
        self._passed_before = bool(self.accused and (self._passed or self._passed_before))
        self._passed, self._since_s = 0, now_s
        self._phase, self.most, self._alone = FREE, None, None
        self._drop_answered(flight)
        if not self._suspects:
            return None
        self._phase, self.most = PROBE, 1
        self._alone = next((s for s in self._suspects if s[1] == PUBRELS), self._suspects[0])
        return self._alone[0]

    def answered(self, count: int, flight: Flight) -> str | None:
        """Answers came, to be called while active; returns a topic that is cleared."""
        self._passed += count
        self._drop_answered(flight)
        free = self._alone is not None and not _owed(*self._alone, flight)
        if self._phase == TRIAL and free:
            return self._acquit()
        if self._phase in (PROBE, HALVES):
            if not self._suspects:
                self._end_search()
            elif self._phase == PROBE and free:
                self._phase, self.most = HALVES, max(1, len(self._suspects) // 2)
                self._alone = None
        return None

    def _drop_answered(self, flight: Flight) -> None:
        self._suspects = [suspect for suspect in self._suspects if _owed(*suspect, flight)]

    def _end_search(self) -> None:
        if self._closes > 1:
            self.window = max(1, self._failed_at // 2)
        self._closes = self._failed_at = 0
        self._phase, self.most = FREE, None

    def _acquit(self) -> str | None:
        assert self._alone is not None
        entry, key = self._alone
        entry.tries = 0
        self._alone, self.most, self._phase = None, None, FREE
        if key == PUBRELS or entry.mid != self.accused.get(key):
            return None  # each PUBREL is tried, and each that is ahead of the accused
        self.accused.pop(key, None)
        self._known.pop(key, None)
        return key

    def look(self, flight: Flight, now_s: float) -> tuple[str, Entry | None] | None:
        """From time to time while active; returns a topic and of it what goes now, alone.

        A topic of which nothing is left is cleared.
        """
        waited = now_s - self._since_s >= (HOLD_S if self._passed else ALONE_S)
        if waited and self._phase == FREE and self.accused and not self._suspects:
            self._phase, self.most = EMPTYING, 0
        if self._phase != EMPTYING or flight.open:
            return None
        key = next(iter(self.accused))
        entry = next((e for e in flight.in_flight.values() if not e.sent_s and key_of(e) == key),
                     None)
        if entry is None:
            del self.accused[key]
            self._phase, self.most = FREE, None
        else:
            if self.accused[key] not in flight.in_flight:
                self.accused[key] = entry.mid
            self._alone = entry, key
            self._phase, self.most = TRIAL, 1
            entry.tries = max(entry.tries, self._begins_with(key))
        return key, entry

    def lost(self, unanswered: list[Entry], open_: int) -> Entry | None:
        """The broker closed; returns the one that is to blame, if one is.

        open_: how many were in flight, with those that wait for us.
        """
        if not unanswered:
            return None
        alone = self._alone[0] if self._alone is not None else None
        if len(unanswered) > 1 or unanswered[0] is not alone:
            self._suspect(unanswered, open_)
            return None
        entry, self._suspects = unanswered[0], []
        self._closes = self._failed_at = 0
        if self._phase != TRIAL or self._alone is None:
            self._accuse(entry)
            return None
        if not self._passed and not (entry.topic == self._own_topic and self._passed_before):
            return None
        entry.tries += 1
        if entry.tries < TRIALS:
            return None
        if len(self._known) >= KNOWN_MOST:
            del self._known[next(iter(self._known))]
        self._known[self._alone[1]] = None
        return entry

    def _suspect(self, unanswered: list[Entry], open_: int) -> None:
        known = {key: entry for entry in reversed(unanswered)
                 if (key := key_of(entry)) in self._known and key not in self.accused}
        for entry in known.values():
            self._accuse(entry)
        if known:
            return
        self._suspects = [(entry, key) for entry in unanswered
                          if (key := key_of(entry)) not in self.accused]
        if open_ > 1 and self._suspects:
            self._closes += 1
            self._failed_at = min(self._failed_at or open_, open_)

    def _begins_with(self, key: str) -> int:
        return TRIALS - 1 if key in self._known else 0

    def _accuse(self, entry: Entry) -> None:
        key = key_of(entry)
        if len(self.accused) >= ACCUSED_MOST:  # it closes over everything
            self.accused.clear()
        entry.tries = max(entry.tries, self._begins_with(key), 1)
        self.accused[key] = entry.mid
        self._suspects = [suspect for suspect in self._suspects if suspect[1] != key]


def _owed(entry: Entry, key: str, flight: Flight) -> bool:
    """Whether the packet that closed the link is still to be answered."""
    return flight.in_flight.get(entry.mid) is entry \
        and (entry.released if key == PUBRELS else not entry.taken)
