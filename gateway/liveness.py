"""Whether the other end of a link is there: who is silent is asked, who does not answer is given
up, and a slow line is neither. No I/O; times are monotonic seconds, passed in.

- Silent for ping_s: a PINGREQ, one for each silence.
- The PINGREQ had left, and ANSWER_S later nothing was heard: dead. What a hung program's kernel
  takes in its place is no sign of life.
- The PINGREQ is not out yet, or nothing was asked: anything that moves, in either direction, is a
  sign of life; nothing for DEAD_S: dead.
- On a line that answers seconds late a lost packet costs many: both limits are at least ROUNDS of
  its measured answers, and the kernel has sent again a few times what was lost; up to MOST_S.
"""

from __future__ import annotations

from gateway.sending import Sending
from gateway.tcp import Moved

PING_S = 4.0
ANSWER_S = 5.0
DEAD_S = 9.0
ROUNDS, MOST_S = 4, 60.0
LOOK_S, LEAVING_S = 1.0, 0.2  # between two looks; while a question is about to leave


class Liveness:
    """One connection. ping_s: how long it may be silent. speak_s: how long we may be [s]."""

    def __init__(self, now_s: float, speak_s: float) -> None:
        self.heard_s = self.spoke_s = now_s
        self.ping_s, self.speak_s = PING_S, speak_s
        self.sending = Sending(now_s)
        self._asked_s = 0.0  # when the PINGREQ was written that is not answered, 0.0 for none
        self._received = 0
        self._late_s = 0.0  # how long the line takes anyway

    def keepalive(self, keepalive_s: float) -> None:
        """The broker wants to hear of us at least so often [s]."""
        self.ping_s, self.speak_s = min(PING_S, keepalive_s / 2), keepalive_s / 2

    def wrote(self, now_s: float, end: int) -> None:
        """Something is written; `end`: see Sending."""
        self.spoke_s = now_s
        self.sending.wrote(now_s, end)

    def heard(self, now_s: float) -> None:
        """Something came."""
        self.heard_s, self._asked_s = now_s, 0.0

    def asked(self, now_s: float) -> None:
        """A PINGREQ is written."""
        self._asked_s = self._asked_s or now_s

    def looked(self, now_s: float, handed: int, moved: Moved | None, *, layered: bool) -> None:
        """What the kernel says. layered: TLS or WebSocket lie between, which hold back what is
        not whole yet."""
        self.sending.handed(handed, None if moved is None else moved.taken + moved.queued, now_s)
        if moved is None:
            return
        self.sending.taken(moved.taken, now_s)
        self._late_s = MOST_S if moved.trying else min(MOST_S, ROUNDS * moved.answer_s)
        if layered and moved.received > self._received:
            self.heard(now_s)
        self._received = moved.received

    def look_s(self) -> float:
        """How long to wait before the next look."""
        if self._asked_s and self.sending.left_s(self._asked_s) is None:
            return LEAVING_S
        return min(LOOK_S, self.ping_s / 2)

    def dead(self, now_s: float) -> bool:
        """Whether to give the link up."""
        asked_s = self.sending.left_s(self._asked_s) if self._asked_s else None
        if asked_s is not None:
            return now_s - max(asked_s, self.heard_s) > max(ANSWER_S, self._late_s)
        return now_s - max(self.sending.moved_s, self.heard_s) > max(DEAD_S, self._late_s)

    def due(self, now_s: float) -> bool:
        """Whether to send a PINGREQ: to ask, or since the broker wants to hear of us."""
        return (now_s - self.heard_s > self.ping_s and not self._asked_s) \
            or now_s - self.spoke_s > self.speak_s
