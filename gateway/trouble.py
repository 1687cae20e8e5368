"""What is done about an upstream that does not take a message, or that closes the link.

The rules are in reasons.py, later.py and caution.py. What they come to is done here: a topic
waits, fewer messages are in flight, one is set aside. `notices` has for `tidegate status` what a
person should know of the upstream.
"""

from __future__ import annotations

import logging
from collections import Counter
from functools import partial

from gateway.batch import Entry
from gateway.caution import Caution
from gateway.commit import Committer
from gateway.flight import Flight, Limits
from gateway.later import Later
from gateway.leaving import Leaving
from gateway.queue import Queue
from gateway.reasons import FINAL, RECEIVE_MAXIMUM_EXCEEDED, name

log = logging.getLogger("tidegate.trouble")

FINAL_ROW = 100  # refusals for good with nothing taken in between; then the broker is in trouble
MAX_TRIES = 3  # an acknowledgement that never comes while later ones do
CALM_S, CALM_MOST_S = 10.0, 3600.0  # without a close over it, then the window grows again
TINY_BYTES = 128  # a Maximum Packet Size below this is a mistake
SIZE_STANDS_S = 60.0  # the same Maximum Packet Size, until it is believed


class Trouble:
    """own_topic: of the gateway's own status, which is dropped where another is set aside.

    counts: PUBRELs given up. silenced: the upstream does not take our status.
    """

    def __init__(self, flight: Flight, queue: Queue, committer: Committer, leaving: Leaving,
                 own_topic: str = "") -> None:
        self.notices: dict[str, str] = {}
        self.counts: Counter[str] = Counter()
        self.own_topic, self.silenced = own_topic, False
        self._flight, self._queue = flight, queue
        self._committer, self._leaving = committer, leaving
        self._caution, self._later = Caution(own_topic), Later()
        self._passed = 0  # messages taken on this connection
        self._window = self._cap = 0  # what the broker says, and what we found, 0 for nothing
        self._cap_s, self._calm_s = 0.0, CALM_S
        self._size_bytes, self._size_s = 0, 0.0
        self._big: list[Entry] = []

    # --- the link

    def connected(self, limits: Limits, now_s: float) -> Entry | None:
        """Make the limits ours; returns what has to go first, if anything."""
        self._passed, self._window = 0, limits.window
        if self._cap:
            limits.window = min(limits.window, self._cap)
        if limits.max_packet_bytes != self._size_bytes:
            self._size_bytes, self._size_s = limits.max_packet_bytes, now_s
        self._big.clear()
        self.notices.pop("size", None)
        self._say_qos(limits)
        self._later.connected(now_s)
        first = self._caution.connected(self._flight, now_s)
        self._apply(now_s)
        return first

    def _say_qos(self, limits: Limits) -> None:
        if limits.max_qos:
            self.notices.pop("qos", None)
            return
        text = "the broker takes QoS 0 alone: " + (
            "sent at QoS 0, which nobody acknowledges" if self._flight.qos_0 else
            "nothing that is to arrive is sent to it; [upstream] qos_0 = true sends it at QoS 0")
        if self.notices.get("qos") != text:
            log.error("%s", text)
        self.notices["qos"] = text

    def lost(self, *, by_broker: bool, now_s: float, code: int = 0) -> None:
        """The connection is gone, or to be given up for want of answers (also `by_broker`).

        by_broker: whether something that we sent may be why. code: of its DISCONNECT.
        """
        if code == RECEIVE_MAXIMUM_EXCEEDED:
            self._shrink(max(1, self._flight.open // 2), now_s)
        elif by_broker:
            blamed = self._caution.lost(self._flight.unanswered(), self._flight.open)
            if blamed is not None and blamed.released:
                self._give_up_release(blamed)
            elif blamed is not None:
                self.set_aside(blamed, "the broker closes on a message", keep_mid=True)

    def _give_up_release(self, entry: Entry) -> None:
        """The upstream had the message when it sent the PUBREC."""
        if not self.counts["releases given up"]:
            log.warning("the broker closes on PUBREL for what it has completed, given up "
                        "topic=%s", entry.topic)
        self.counts["releases given up"] += 1
        self._flight.remove(entry)
        self._leaving.forget([entry], soon=True)

    def _shrink(self, window: int, now_s: float) -> None:
        if self._cap:
            self._calm_s = min(2 * self._calm_s, CALM_MOST_S)
        text = f"it closes over more messages in flight than {window}"
        if not self._cap:
            log.warning("%s: the window is so small now; see inflight in the config", text)
        self._cap, self._cap_s = window, now_s
        self.notices["window"] = text

    def _grow(self, now_s: float) -> None:
        if not self._cap or now_s - self._cap_s < self._calm_s:
            return
        self._cap, self._cap_s = 2 * self._cap, now_s
        if self._cap >= self._window:
            self._cap = 0
            del self.notices["window"]
        self._flight.limits.window = min(self._window, self._cap or self._window)

    # --- answers

    def busy(self) -> bool:
        """Whether answers have to be told; else all is well and none of this costs anything."""
        return self._caution.active or self._later.active

    def answered(self, taken: int, count: int, now_s: float) -> None:
        """So many answers came, of which so many took a message; to be called while busy."""
        if taken and self._later.active:
            self._later.taken(taken, now_s)
        if self._caution.active:
            cleared = self._caution.answered(count, self._flight)
            if cleared is not None:
                self._flight.let(cleared)
            if self._caution.window:
                self._shrink(self._caution.window, now_s)
                self._caution.window = 0
                self._flight.limits.window = min(self._window, self._cap)
        self.look(now_s)

    def passed(self, count: int) -> None:
        """The broker took messages."""
        self._passed += count

    def refused(self, entry: Entry, reason: int, now_s: float) -> None:
        """The broker answered with a reason code; the entry is in flight still."""
        calm = self._passed and self._later.most is None and self._later.row < FINAL_ROW
        if reason in FINAL and calm:
            self._later.row += 1
            self.set_aside(entry, f"upstream refuses a message, reason={name(reason)}",
                           keep_mid=entry.dup)
            return
        if not self._later.active:
            log.warning("the upstream refuses messages, trying again later reason=%s topic=%s",
                        name(reason), entry.topic)
        self.notices["refusing"] = f"it refuses messages for now: {name(reason)}"
        if self._later.refused(entry.topic, now_s):
            self.set_aside(entry, f"upstream takes others and refuses this one, "
                           f"reason={name(reason)}", keep_mid=entry.dup)

    def never_acknowledged(self, entry: Entry) -> bool:
        """Later ones were; returns whether the entry was set aside."""
        entry.tries += 1
        if entry.tries < MAX_TRIES:
            return False
        self.set_aside(entry, "never acknowledged", keep_mid=True)
        return True

    def too_big(self, entries: list[Entry], now_s: float) -> None:
        """Over the broker's Maximum Packet Size: wait until that is believed."""
        self._big += entries
        limit = self._size_bytes
        if limit >= TINY_BYTES and now_s - self._size_s >= SIZE_STANDS_S:
            for entry in self._big:
                self.set_aside(entry, "too big for the upstream", keep_mid=entry.dup)
            self._big.clear()
        elif self._big:
            if "size" not in self.notices:
                log.error("the broker takes packets of %d bytes at most, bigger messages wait",
                          limit)
            self.notices["size"] = (f"it takes packets of {limit} bytes at most: "
                                    f"{len(self._big)} messages wait")

    def set_aside(self, entry: Entry, why: str, *, keep_mid: bool) -> None:
        """Put an entry out of the way of the others.

        keep_mid: the upstream may still hold the message, so its packet identifier stays taken;
        an answer with a reason code ends it.
        """
        self._flight.remove(entry)
        if entry.topic == self.own_topic:
            self.silenced = True
            self.notices["status"] = "it does not take the gateway's own status"
            log.warning("%s: the gateway's own status, not sent again topic=%s", why, entry.topic)
            self._leaving.forget([entry], soon=True)
            return
        log.error("%s, set aside topic=%s bytes=%d", why, entry.topic, len(entry.payload))
        mid = entry.mid
        if not keep_mid:
            entry.mid = 0
            if mid:
                self._committer.after(partial(self._flight.mids.free_mids, [mid]))
        self._committer.batch.moved.append(self._queue.set_aside(entry))
        self._committer.wake()

    # --- time

    def look(self, now_s: float) -> None:
        """Do what is due: try again what was refused, put the accused on trial."""
        flight, later = self._flight, self._later
        self._grow(now_s)
        if self._big:
            self.too_big([], now_s)
        if later.topics:
            open_topics = {e.topic for e in flight.in_flight.values() if not e.taken}
            for topic in [t for t in later.topics if t not in open_topics]:
                later.settled(topic)
        self._apply(now_s)
        if later.topics and not (later.most == 1 and flight.unanswered()):
            for topic in later.ready(now_s, fresh=any(flight.lanes)):
                flight.again(topic)
        if later.active and not later.topics and not flight.in_flight:
            later.calm()
        if not later.topics and self.notices.pop("refusing", ""):
            log.info("the upstream takes messages again")
        if self._caution.active and (found := self._caution.look(flight, now_s)):
            key, entry = found
            if entry is None:
                flight.let(key)
            else:
                flight.alone(entry)
            self._apply(now_s)

    def next_s(self, now_s: float) -> float:
        """Return in how many seconds to look again, at the latest."""
        return max(0.02, min(self._later.next_s(now_s), 1.0)) if self._later.active else 1.0

    def _apply(self, now_s: float) -> None:
        """What is held back, and how much may be in flight."""
        flight = self._flight
        wanted = {*self._caution.accused, *self._later.topics}
        for key in wanted - flight.held:
            flight.hold(key)
        for key in flight.held - wanted:
            flight.let(key)
        limits = [m for m in (self._caution.most, self._later.limit(now_s)) if m is not None]
        flight.most = min(limits, default=None)


