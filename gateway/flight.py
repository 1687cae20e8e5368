"""QoS 1 and 2 towards the upstream: what may be sent, what is in flight, what is owed. No I/O.

The rules (OASIS MQTT 3.1.1 and 5.0, sections 4.3 and 4.4):

  queued ──send──▶ sent ──PUBACK──▶ done                                        QoS 1
  queued ──send──▶ sent ──PUBREC──▶ releasing ──on disk──▶ released ──PUBCOMP──▶ done   QoS 2

- At QoS 2 an entry is here only after it is on disk, with its packet identifier: a crash must not
  forget which message the upstream holds under it. At QoS 1 it may still be on its way there.
- Nothing is forgotten on send: only PUBACK or PUBCOMP ends it, and its packet identifier is free
  again only when that end is on disk.
- After PUBREC an entry belongs to the upstream: it is never published again. Its PUBREL goes out
  once `released` is on disk.
- Reconnected, session present: released entries get PUBREL again, sent ones PUBLISH with DUP, the
  same packet identifier, in the order they were first sent.
- Reconnected, no session: sent ones are published as new; released ones are done, since only the
  session that sent the PUBREC wants a PUBREL.
"""

from __future__ import annotations

from collections import deque
from operator import attrgetter

from msgspec import Struct, field

from gateway.batch import LANE_SHIFT, Entry
from gateway.routes import REFUSED
from gateway.wire import (
    PUBACK,
    PUBCOMP,
    PUBREC,
    PUBREL,
    Ack,
    encode_ack,
    encode_publish,
    encode_text,
)

MIDS = 65_535
MAX_TRIES = 3  # an acknowledgement that never comes while later ones do


class Limits(Struct):
    """What the upstream's CONNACK allows (MQTT 5.0 section 3.2.2.3)."""

    window: int = 1000  # Receive Maximum
    max_qos: int = 2
    max_packet_bytes: int = 268_435_455
    retain: bool = True
    v5: bool = False


class Progress(Struct):
    """What a batch of acknowledgements brought.

    done: delivered; delete them. release: set `released` on disk, then call `released`.
    refused: the upstream will not have them; keep them out of the way. reply: send at once.
    """

    done: list[Entry] = field(default_factory=list)
    release: list[Entry] = field(default_factory=list)
    refused: list[tuple[Entry, int]] = field(default_factory=list)
    reply: bytearray = field(default_factory=bytearray)


class Flight:
    """The session with the upstream, as seen from its sender."""

    def __init__(self) -> None:
        self.limits = Limits()
        self.connected = False
        self.in_flight: dict[int, Entry] = {}  # by packet identifier, in order of first send
        self.lanes: tuple[deque[Entry], ...] = (deque(), deque(), deque())
        self.acknowledged = 0  # messages done, ever
        self.lowered = 0  # QoS 2 messages that the upstream took at QoS 1
        self.oversized: list[Entry] = []  # found by `send`, to be set aside
        self._open = 0  # of in_flight, those sent on this connection: what Receive Maximum limits
        self._free = deque(range(1, MIDS + 1))
        self._taken: set[int] = set()
        self._again: deque[Entry] = deque()  # to send before anything new, after a reconnect
        self._topics: dict[str, bytes] = {}

    # --- packet identifiers

    def take_mids(self, count: int) -> list[int]:
        """Up to `count` free packet identifiers, now taken; the longest unused first."""
        mids = [self._free.popleft() for _ in range(min(count, len(self._free)))]
        self._taken.update(mids)
        return mids

    def short_of_mids(self) -> bool:
        """Whether most packet identifiers are taken."""
        return len(self._free) < MIDS // 2

    def free_mids(self, mids: list[int]) -> None:
        """Give packet identifiers back: their end is on disk, or they were never used."""
        for mid in mids:
            if mid in self._taken:
                self._taken.discard(mid)
                self._free.append(mid)

    def restore(self, entries: list[Entry]) -> None:
        """Take over what was on disk at the start. Any of it may have been sent before."""
        self._taken = {entry.mid for entry in entries if entry.mid}
        self._free = deque(mid for mid in range(1, MIDS + 1) if mid not in self._taken)
        for entry in entries:
            if entry.lane == REFUSED:
                continue  # keeps its identifier: the upstream may still hold a message under it
            if entry.mid:
                entry.sent, entry.taken = True, entry.released
                self.in_flight[entry.mid] = entry
            else:
                self.lanes[entry.lane].append(entry)

    # --- the session

    def start(self, session_present: bool, limits: Limits) -> list[Entry]:
        """A CONNACK came; returns released entries that nobody wants a PUBREL for any more."""
        self.limits, self.connected, self._open = limits, True, 0
        orphans: list[Entry] = []
        self._again.clear()
        for mid, entry in list(self.in_flight.items()):
            entry.sent_s = 0.0
            if (entry.released or entry.taken) and not session_present:
                del self.in_flight[mid]
                orphans.append(entry)
                continue
            if not entry.taken:
                entry.sent = session_present
            self._again.append(entry)
        return orphans

    def unanswered(self) -> list[Entry]:
        """Entries sent on this connection that the upstream has said nothing about."""
        return [e for e in self.in_flight.values() if e.sent_s and not e.taken]

    def stop(self) -> None:
        """The connection is gone."""
        self.connected = False
        self._again.clear()

    def add(self, entries: list[Entry]) -> None:
        """Entries to be sent, in the order given within each lane."""
        lanes = self.lanes
        for entry in entries:
            if not entry.sent:  # else superseded before it came here
                lanes[entry.key >> LANE_SHIFT].append(entry)

    def unsend(self, entries: list[Entry]) -> None:
        """Entries that ended by being sent (QoS 0) did not leave: before all others again."""
        for entry in reversed(entries):
            entry.sent, entry.sent_s = False, 0.0
            self.lanes[entry.key >> LANE_SHIFT].appendleft(entry)
        self.acknowledged -= len(entries)

    def queued(self) -> int:
        """Entries in memory that were not sent yet."""
        return sum(map(len, self.lanes))

    def send(self, max_bytes: int, now_s: float) -> tuple[list[bytes], list[Entry]]:
        """Packets to write now, about max_bytes of them, and what ends with the write (QoS 0)."""
        parts: list[bytes] = []
        ended: list[Entry] = []
        if not self.connected:
            return parts, ended
        room = self.limits.window - self._open
        while self._again and max_bytes > 0 and room > 0:
            entry = self._again.popleft()
            if self.in_flight.get(entry.mid) is not entry:
                continue  # given up meanwhile
            if entry.taken and not entry.released:  # its PUBREL follows, see `released`
                entry.sent_s = now_s
                room -= 1
                continue
            part = self._packet(entry, dup=entry.sent)
            if len(part) > self.limits.max_packet_bytes:
                del self.in_flight[entry.mid]
                self.oversized.append(entry)
                continue
            parts.append(part)
            max_bytes -= len(part)
            if min(entry.qos, self.limits.max_qos) == 0 and not entry.released:
                del self.in_flight[entry.mid]
                entry.sent = True
                ended.append(entry)
                continue
            entry.sent, entry.sent_s = True, now_s
            room -= 1
        limits, topics, in_flight = self.limits, self._topics, self.in_flight
        max_qos, max_packet_bytes = limits.max_qos, limits.max_packet_bytes
        may_retain, v5 = limits.retain, limits.v5
        for lane in self.lanes if not self._again else ():
            while lane and max_bytes > 0 and (room > 0 or lane[0].mid == 0):
                entry = lane.popleft()
                mid = entry.mid
                part = encode_publish(
                    topics.get(entry.topic) or self._topic(entry.topic), entry.payload,
                    entry.qos if entry.qos < max_qos else max_qos, entry.retain and may_retain,
                    False, mid, v5=v5)
                size = len(part)
                if size > max_packet_bytes:
                    self.oversized.append(entry)
                    continue
                parts.append(part)
                max_bytes -= size
                if mid and max_qos:
                    entry.sent, entry.sent_s = True, now_s
                    in_flight[mid] = entry
                    room -= 1
                else:
                    entry.sent = True
                    ended.append(entry)
            if lane:
                break  # what waits for the window is not overtaken at QoS 0 from a lane behind it
        self.acknowledged += len(ended)
        self._open = self.limits.window - room
        return parts, ended

    def _packet(self, entry: Entry, dup: bool) -> bytes:
        if entry.released:
            return encode_ack(PUBREL, entry.mid)
        topic = self._topics.get(entry.topic) or self._topic(entry.topic)
        limits, qos = self.limits, min(entry.qos, self.limits.max_qos)
        return encode_publish(topic, entry.payload, qos, entry.retain and limits.retain,
                              dup and qos > 0, entry.mid, v5=limits.v5)

    def _topic(self, name: str) -> bytes:
        """A topic as a packet has it, kept for the next one."""
        if len(self._topics) > 8192:
            self._topics.clear()
        topic = encode_text(name)
        if len(topic) <= 512:
            self._topics[name] = topic
        return topic

    def acks(self, packets: list[Ack]) -> Progress:
        """PUBACK, PUBREC and PUBCOMP that came."""
        progress = Progress()
        flying, max_qos = self.in_flight, self.limits.max_qos
        for ack in packets:
            kind, mid = ack.kind, ack.mid
            entry = flying.get(mid)
            if entry is not None and not entry.sent_s:
                continue  # not sent on this connection
            if kind == PUBREL:
                continue  # of a message to us
            if kind == PUBREC:
                if entry is None:
                    # Of a session older than our outbox: let the upstream finish it.
                    if ack.reason < 0x80 and mid not in self._taken:
                        progress.reply += encode_ack(PUBREL, mid)
                elif ack.reason >= 0x80 and not entry.taken:
                    self._refuse(entry, ack.reason, progress)
                elif entry.released:
                    progress.reply += encode_ack(PUBREL, mid)
                elif min(entry.qos, max_qos) == 2 and not entry.taken:
                    entry.taken = True
                    progress.release.append(entry)
            elif entry is None:
                continue  # of a message that has ended, or that is not ours
            elif kind == PUBACK and ack.reason >= 0x80 and not entry.taken:
                self._refuse(entry, ack.reason, progress)
            elif entry.released if kind == PUBCOMP else not entry.taken and not entry.released:
                # PUBACK for QoS 2 breaks 4.3.3, and is how RabbitMQ's MQTT plugin says that it
                # took the message, at QoS 1.
                self.lowered += kind == PUBACK and min(entry.qos, max_qos) == 2
                del flying[mid]
                self._open -= 1
                progress.done.append(entry)
        self.acknowledged += len(progress.done)
        return progress

    def _refuse(self, entry: Entry, reason: int, progress: Progress) -> None:
        del self.in_flight[entry.mid]
        self._open -= 1
        progress.refused.append((entry, reason))

    def released(self, entries: list[Entry], now_s: float) -> list[bytes]:
        """`released` of these is on disk: their PUBRELs, where the session still stands."""
        parts = []
        for entry in entries:
            if not entry.released:
                entry.released = True
                if self.connected and self.in_flight.get(entry.mid) is entry:
                    entry.sent_s = entry.sent_s and now_s  # the upstream's turn begins again
                    parts.append(encode_ack(PUBREL, entry.mid))
        return parts

    def overdue(self, now_s: float, limit_s: float) -> Entry | None:
        """The entry that waits longest for its acknowledgement, if that is over limit_s.

        Where the upstream's PUBREC came and `released` is not on disk yet, it is our turn.
        """
        waiting = [e for e in self.in_flight.values() if e.sent_s and (e.released or not e.taken)]
        oldest = min(waiting, key=attrgetter("sent_s"), default=None)
        return oldest if oldest is not None and now_s - oldest.sent_s > limit_s else None

    def give_up(self, entry: Entry) -> bool:
        """Blame an entry whose acknowledgement never came while later ones did; True when it
        should be set aside."""
        entry.tries += 1
        if entry.tries < MAX_TRIES:
            return False
        if self.in_flight.pop(entry.mid, None) is not None and entry.sent_s:
            self._open -= 1
        return True
