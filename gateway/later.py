"""What a broker in trouble refused is tried again later, and lets others pass meanwhile. Pure.

The codes of reasons.PASSING (and any unknown one) speak of the broker: its quota is used up, it is
busy, a part of it fails. A final code counts as one of them while nothing else passes: a broker
whose user database is away answers "not authorized" to everything. The rules:

- a refused message waits FIRST_S, then twice as long each time, LONGEST_S at most; what comes
  behind it on its topic waits too, until it is taken, so that the topic keeps its order.
- ROW refusals with nothing taken in between: the broker is in trouble. Nothing is sent for PAUSE_S
  (twice as long each time; PAUSE_MOST_S while it takes any, AWAY_S when it takes none), then one
  message: one that was refused and a new one by turns. Each that is taken doubles what is sent
  next, so a broker that takes two a second gets two a second.
- a message is to blame when it was refused TRIES times and STANDS_S long while others were taken
  between its tries. Nobody is while the broker is in trouble.
"""

from __future__ import annotations

from msgspec import Struct

FIRST_S, LONGEST_S = 0.5, 30.0
ROW = 3
PAUSE_S, PAUSE_MOST_S, AWAY_S = 0.25, 1.0, 10.0
LATELY_S = 10.0
TRIES, STANDS_S = 10, 120.0
WINDOW_MOST = 1000


class Waiting(Struct):
    """A topic with messages that were refused."""

    due_s: float
    first_s: float
    pause_s: float
    tries: int = 0
    taken: int = 0  # answers that the broker had given to others at its last try
    sent: bool = False  # again, and not answered yet


class Later:
    """When to send again what was refused.

    topics: in the order in which they are tried. most: as in caution.py. row: refusals since the
    last message that was taken.
    """

    def __init__(self) -> None:
        self.topics: dict[str, Waiting] = {}
        self._past: dict[str, Waiting] = {}  # of the connection before
        self.most: int | None = None
        self.row = 0
        self._pause_s, self._until_s = PAUSE_S, 0.0
        self._taken, self._taken_s = 0, 0.0
        self._old_turn = True

    @property
    def active(self) -> bool:
        """Whether anything is to be asked for or told."""
        return bool(self.topics) or self.most is not None or self.row > 0

    def connected(self, now_s: float) -> None:
        """A new connection: everything is sent again by itself."""
        self._past, self.topics = self.topics, {}
        self._taken_s = now_s

    def refused(self, topic: str, now_s: float) -> bool:
        """A message was refused; returns whether it is to blame."""
        self.row += 1
        waiting = self.topics.pop(topic, None) or self._past.pop(topic, None) \
            or Waiting(now_s, now_s, FIRST_S)
        self.topics[topic] = waiting  # behind the others
        waiting.sent = False
        if self.most is not None or self.row >= ROW:
            self.most = 1
            most_s = PAUSE_MOST_S if now_s - self._taken_s < LATELY_S else AWAY_S
            self._until_s = now_s + self._pause_s
            self._pause_s = min(2 * self._pause_s, most_s)
            waiting.due_s = self._until_s
            return False
        waiting.tries += self._taken > waiting.taken
        waiting.taken = self._taken
        waiting.due_s = now_s + waiting.pause_s
        waiting.pause_s = min(2 * waiting.pause_s, LONGEST_S)
        return waiting.tries >= TRIES and now_s - waiting.first_s >= STANDS_S

    def taken(self, count: int, now_s: float) -> None:
        """The broker took messages; to be called while active."""
        self.row, self._pause_s, self._taken_s = 0, PAUSE_S, now_s
        self._taken += count
        if self.most is not None:
            self.most *= 2
            if self.most > WINDOW_MOST:
                self.most = None

    def limit(self, now_s: float) -> int | None:
        """Return how many may wait for an answer now; None for as many as may be."""
        return 0 if now_s < self._until_s else self.most

    def ready(self, now_s: float, *, fresh: bool) -> list[str]:
        """Topics of which what was refused goes again now; in trouble by turns with what is new,
        where there is anything new (`fresh`)."""
        if now_s < self._until_s:
            return []
        due = [topic for topic, w in self.topics.items() if not w.sent and w.due_s <= now_s]
        if self.most == 1:
            self._old_turn = not (self._old_turn and fresh)
            due = due[:1] if self._old_turn else []
        for topic in due:
            self.topics[topic].sent = True
        return due

    def settled(self, topic: str) -> None:
        """What was refused of a topic is taken, or gone."""
        self.topics.pop(topic, None)

    def calm(self) -> None:
        """Nothing waits any more."""
        self.most, self.row, self._pause_s = None, 0, PAUSE_S

    def next_s(self, now_s: float) -> float:
        """Return in how many seconds there may be something to send again."""
        due_s = min((w.due_s for w in self.topics.values() if not w.sent), default=now_s + 1.0)
        return max(self._until_s, due_s) - now_s
