"""QoS 1 and 2 towards the upstream: what may be sent, what is in flight, what is owed. No I/O.

The rules (OASIS MQTT 3.1.1 and 5.0, sections 4.3 and 4.4):

  queued ──send──▶ sent ──PUBACK──▶ done                                        QoS 1
  queued ──send──▶ sent ──PUBREC──▶ releasing ──on disk──▶ released ──PUBCOMP──▶ done   QoS 2

- At QoS 2 an entry is here only after it is on disk, with its packet identifier: a crash must not
  forget which message the upstream holds under it. At QoS 1 it may still be on its way there.
- Nothing is forgotten on send: only PUBACK or PUBCOMP ends it, and its packet identifier is free
  again only when that end is on disk.
- After PUBREC an entry belongs to the upstream: in this session it is never published again. Its
  PUBREL goes out once `released` is on disk.
- Reconnected, session present: released entries get PUBREL again, sent ones PUBLISH with DUP, the
  same packet identifier, in the order they were first sent.
- Reconnected, no session: sent ones are published as new. What becomes of those that had their
  PUBREC is not decided here, see `orphans`.
- A reason code ends one try, not the message: it stays in flight, unsent, until the caller sends
  it again or takes it away. But PUBREC 0x91, "identifier in use": of a PUBLISH that was sent on an
  earlier connection it says that the upstream has it, as a PUBREC does. Of any other it says that
  the upstream holds a stranger under that identifier: that one is released, and the message goes
  under another identifier. PUBCOMP 0x92 ends a message as PUBCOMP does: the upstream has released
  it before.
"""

from __future__ import annotations

from collections import deque
from operator import attrgetter

from msgspec import Struct, field

from gateway.again import Again, key_of
from gateway.batch import Entry
from gateway.mids import Mids
from gateway.reasons import IDENTIFIER_IN_USE
from gateway.routes import REFUSED
from gateway.strangers import Strangers
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
    refused: answered with a reason code, still in flight. strangers: to be sent under another
    identifier, see strangers.py. reply: send at once.
    """

    done: list[Entry] = field(default_factory=list)
    release: list[Entry] = field(default_factory=list)
    refused: list[tuple[Entry, int]] = field(default_factory=list)
    strangers: list[Entry] = field(default_factory=list)
    reply: bytearray = field(default_factory=bytearray)


class Flight(Again):
    """The session with the upstream, as seen from its sender.

    dup_flag: false leaves DUP out of what is sent again. qos_0: what came at QoS 1 or 2 may go to
    an upstream that takes QoS 0 alone. most: of packets that wait for an answer, None where only
    the window counts.
    """

    def __init__(self, *, dup_flag: bool = True, qos_0: bool = False) -> None:
        super().__init__()
        self.mids = Mids()
        self.limits = Limits()
        self.connected = False
        self.most: int | None = None
        self.lowered = 0  # QoS 2 messages that the upstream took at QoS 1
        self.oversized: list[Entry] = []  # found by `send`, still on the shelf or in flight
        self.passed_s = 0.0  # when the newest was sent of those that are acknowledged
        self.qos_0, self._dup_flag = qos_0, dup_flag
        self._order = 0  # of the newest that was sent
        self._releases = 0  # first of `_again`, to be answered before anything else goes
        self.strangers = Strangers(self.mids)
        self._topics: dict[str, bytes] = {}

    def restore(self, entries: list[Entry]) -> None:
        """Take over what was on disk at the start. Any of it may have been sent before."""
        self.mids.restore(entry.mid for entry in entries if entry.mid)
        for entry in entries:
            if entry.lane == REFUSED:
                continue  # keeps its identifier: the upstream may still hold a message under it
            if entry.mid:
                entry.sent, entry.taken = True, entry.released
                self.in_flight[entry.mid] = entry
            else:
                self.lanes[entry.lane].append(entry)

    # --- the session

    def orphans(self) -> list[Entry]:
        """What had its PUBREC from a session that is gone."""
        return [entry for entry in self.in_flight.values() if entry.taken or entry.released]

    def start(self, session_present: bool, limits: Limits, first: Entry | None = None) -> None:
        """A CONNACK came, and of a session that is gone there are no orphans left.

        first: is sent before all others, but for PUBRELs where it is none: an upstream that
        holds as many as it can takes no other before them.
        """
        self.limits, self.connected, self.open = limits, True, 0
        self._again.clear()
        self.strangers.start(session_present)
        for entry in self.in_flight.values():
            entry.sent_s = 0.0
            if not entry.taken:
                entry.dup = session_present and (entry.dup or entry.sent)
                entry.sent = session_present
            if entry is not first and key_of(entry) not in self.held:
                self._again.append(entry)
        self._releases = 0
        if first is not None:
            ahead = [] if first.released else [e for e in self._again if e.released]
            rest = [e for e in self._again if first.released or not e.released]
            self._again, self._releases = deque((*ahead, first, *rest)), len(ahead)
        if self._unsent:
            self._merge_unsent()
        self.unshelve([entry for entry in self.shelf if entry.topic not in self.held])

    def unanswered(self) -> list[Entry]:
        """Entries of which a packet was sent on this connection and not answered."""
        return [e for e in self.in_flight.values() if e.sent_s and (e.released or not e.taken)]

    def stop(self) -> None:
        """The connection is gone."""
        self.connected = False
        unsent = [entry for entry in self._again if not entry.mid and not entry.sent]
        self.put_back(unsent)
        self._unsent += unsent
        self._again.clear()

    # --- what is to be sent

    def send(self, max_bytes: int, now_s: float) -> tuple[list[bytes], list[Entry]]:
        """Packets to write now, about max_bytes of them, and what ends with the write (QoS 0)."""
        parts: list[bytes] = []
        ended: list[Entry] = []
        if not self.connected:
            return parts, ended
        limits, in_flight = self.limits, self.in_flight
        max_qos, max_packet_bytes = limits.max_qos, limits.max_packet_bytes
        least_qos = 0 if max_qos or self.qos_0 else 1  # of what is not sent at all
        if self.strangers.owed:
            parts += self.strangers.owed
            self.strangers.owed.clear()
        room = before = limits.window - self.open
        if self.most is not None and self._releases:
            room = before = min(room, self._releases)
            self._releases -= room
        elif self.most is not None:
            room = before = min(room, self.most - len(self.unanswered()))
        while self._again and max_bytes > 0 and room > 0:
            entry = self._again.popleft()
            if entry.sent if not entry.mid else in_flight.get(entry.mid) is not entry:
                continue  # given up meanwhile
            if entry.taken and not entry.released:  # its PUBREL follows, see `released`
                entry.sent_s = now_s
                room -= 1
                continue
            if entry.qos >= least_qos > 0 and not entry.released:
                continue  # stays in flight for another connection
            part = self._packet(entry)
            if len(part) > max_packet_bytes:
                if not entry.mid:
                    self.shelf.append(entry)
                self.oversized.append(entry)
                continue
            parts.append(part)
            max_bytes -= len(part)
            if min(entry.qos, max_qos) == 0 and not entry.released:
                in_flight.pop(entry.mid, None)
                entry.sent = True
                ended.append(entry)
                continue
            entry.sent, entry.sent_s = True, now_s
            room -= 1
        topics, held, may_retain, v5 = self._topics, self.held, limits.retain, limits.v5
        picky = bool(held or least_qos)
        for lane in self.lanes if not self._again else ():
            while lane and max_bytes > 0 and (room > 0 or lane[0].mid == 0):
                entry = lane.popleft()
                if picky and (entry.topic in held or entry.qos >= least_qos > 0):
                    self.shelf.append(entry)
                    continue
                mid = entry.mid
                part = encode_publish(
                    topics.get(entry.topic) or self._topic(entry.topic), entry.payload,
                    entry.qos if entry.qos < max_qos else max_qos, entry.retain and may_retain,
                    False, mid, v5=v5)
                size = len(part)
                if size > max_packet_bytes:
                    self.shelf.append(entry)
                    self.oversized.append(entry)
                    continue
                parts.append(part)
                max_bytes -= size
                entry.order = self._order = self._order + 1
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
        self.open += before - room
        return parts, ended

    def _packet(self, entry: Entry) -> bytes:
        if entry.released:
            return encode_ack(PUBREL, entry.mid)
        topic = self._topics.get(entry.topic) or self._topic(entry.topic)
        limits, qos = self.limits, min(entry.qos, self.limits.max_qos)
        return encode_publish(topic, entry.payload, qos, entry.retain and limits.retain,
                              entry.dup and self._dup_flag and qos > 0, entry.mid, v5=limits.v5)

    def _topic(self, name: str) -> bytes:
        """A topic as a packet has it, kept for the next one."""
        if len(self._topics) > 8192:
            self._topics.clear()
        topic = encode_text(name)
        if len(topic) <= 512:
            self._topics[name] = topic
        return topic

    # --- what is answered

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
            if ack.reason >= 0x80 and (kind != PUBCOMP or entry is None):
                self._failed(ack, entry, progress)
            elif kind == PUBREC:
                if entry is None:
                    # Of a session older than our outbox: let the upstream finish it.
                    if mid not in self.mids.taken:
                        progress.reply += encode_ack(PUBREL, mid)
                elif entry.released:
                    progress.reply += encode_ack(PUBREL, mid)
                elif min(entry.qos, max_qos) == 2 and not entry.taken:
                    entry.taken = True
                    progress.release.append(entry)
            elif entry is None:
                if kind == PUBCOMP:  # of a message that has ended, or that is not ours
                    self.strangers.completed(mid)
            elif entry.released if kind == PUBCOMP else not entry.taken and not entry.released:
                # PUBACK for QoS 2 breaks 4.3.3, and is how RabbitMQ's MQTT plugin says that it
                # took the message, at QoS 1.
                self.lowered += kind == PUBACK and min(entry.qos, max_qos) == 2
                del flying[mid]
                self.open -= 1
                progress.done.append(entry)
        self.acknowledged += len(progress.done)
        for newest in (*progress.done[-1:], *progress.release[-1:]):
            self.passed_s = max(self.passed_s, newest.sent_s)
        return progress

    def _failed(self, ack: Ack, entry: Entry | None, progress: Progress) -> None:
        """An answer with a reason code."""
        if entry is None:
            if ack.kind == PUBCOMP:
                self.strangers.completed(ack.mid)
        elif entry.taken or entry.released:
            pass  # repeated; its PUBREC came before
        elif ack.reason != IDENTIFIER_IN_USE:
            self.open -= 1
            entry.sent, entry.sent_s = entry.dup, 0.0
            progress.refused.append((entry, ack.reason))
        elif ack.kind == PUBREC and entry.dup and min(entry.qos, self.limits.max_qos) == 2:
            entry.taken = True
            progress.release.append(entry)
        else:
            del self.in_flight[ack.mid]
            self.open -= 1
            entry.sent, entry.sent_s, entry.dup = False, 0.0, False
            progress.reply += self.strangers.found(ack.mid)
            progress.strangers.append(entry)

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
        oldest = min(self.unanswered(), key=attrgetter("sent_s"), default=None)
        return oldest if oldest is not None and now_s - oldest.sent_s > limit_s else None
