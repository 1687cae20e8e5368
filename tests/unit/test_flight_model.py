"""gateway/flight.py against a broker, a disk, a lossy link and crashes at any point.

The disk takes batches in order; a crash loses the ones not yet written, or only their callbacks.
At QoS 1 a message may be on its way before it is on the disk, see gateway/drain.py.
The broker keeps its session or forgets it. Packet identifiers are few, so that one used again too
early shows. The broker is a second implementation of the receiver's side (section 4.3), in the
manners of several: it delivers with the PUBLISH or with the PUBREL, says 0x91 and 0x92 as EMQX
does, refuses in passing, and may hold a stranger under an identifier from the beginning.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

import hypothesis.strategies as st
from hypothesis import settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec.structs import replace

import gateway.mids
from gateway import wire
from gateway.batch import LANE_SHIFT, Entry
from gateway.flight import Flight, Limits
from gateway.routes import LIVE, URGENT
from gateway.wire import Ack, Publish, encode_ack

MIDS = 9


def number(entry: Entry) -> int:
    return int(entry.payload)


def stored(entry: Entry) -> Entry:
    """What the disk knows of an entry."""
    return replace(entry, sent=False, tries=0, sent_s=0.0, taken=False, dup=False)


STRANGER = b"0"


def coded(kind: int, mid: int, reason: int) -> bytes:
    return bytes([kind << 4, 3, mid >> 8, mid & 0xFF, reason])


class Broker:
    """Receiver of QoS 1 and 2. late: method B, a message is delivered with its PUBREL, else with
    its PUBLISH (method A). says: 0x91 and 0x92, as MQTT 5 has it."""

    def __init__(self, *, late: bool = False, says: bool = False) -> None:
        self.late, self.says = late, says
        self.refuse = False
        self.session: dict[int, bytes] = {}  # QoS 2 identifiers between PUBLISH and PUBREL
        self.delivered: list[int] = []  # message numbers
        self.unanswered: set[int] = set()  # identifiers of this connection, for Receive Maximum
        self.window = 0

    def connect(self, window: int, keep: bool) -> bool:
        present = keep
        if not keep:
            self.session.clear()
        self.window, self.unanswered = window, set()
        return present

    def take(self, packet: wire.Packet) -> list[bytes]:
        if isinstance(packet, Publish):
            assert packet.mid
            assert packet.dup or packet.mid not in self.unanswered, "identifier twice in flight"
            self.unanswered.add(packet.mid)
            assert len(self.unanswered) <= self.window, "over Receive Maximum"
            kind = wire.PUBACK if packet.qos == 1 else wire.PUBREC
            if self.refuse:
                return [coded(kind, packet.mid, 0x97)]
            if packet.qos == 1:
                self.delivered.append(int(packet.payload))
                return [encode_ack(wire.PUBACK, packet.mid)]
            known = self.session.get(packet.mid)
            if known is None:
                if not self.late:
                    self.delivered.append(int(packet.payload))
                self.session[packet.mid] = packet.payload
            elif known != STRANGER:
                assert packet.dup, "identifier used again before its end"
                assert known == packet.payload, "another message under an identifier in use"
            if known is not None and self.says:
                return [coded(wire.PUBREC, packet.mid, 0x91)]
            return [encode_ack(wire.PUBREC, packet.mid)]
        assert isinstance(packet, Ack)
        assert packet.kind == wire.PUBREL
        known = self.session.pop(packet.mid, None)
        if known is None and self.says:
            return [coded(wire.PUBCOMP, packet.mid, 0x92)]
        if self.late and known not in (None, STRANGER):
            self.delivered.append(int(known or b""))
        return [encode_ack(wire.PUBCOMP, packet.mid)]

    def answered(self, data: bytes) -> None:
        """An acknowledgement goes out: room in the window."""
        kind, mid = data[0] >> 4, data[2] << 8 | data[3]
        if kind in (wire.PUBACK, wire.PUBCOMP) or (data[1] == 3 and data[4] >= 0x80):
            self.unanswered.discard(mid)


class Gateway(RuleBasedStateMachine):
    """Flight, with the disk and the link as lists."""

    forgets = True
    late = says = False
    strangers: tuple[int, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.mids, gateway.mids.MIDS = gateway.mids.MIDS, MIDS
        self.flight, self.broker = Flight(), Broker(late=self.late, says=self.says)
        self.broker.session = dict.fromkeys(self.strangers, STRANGER)
        self.disk: dict[int, Entry] = {}
        self.batches: deque[tuple[str, list[Entry]]] = deque()
        self.to_broker: deque[bytes] = deque()
        self.to_gateway: deque[bytes] = deque()
        self.last_id, self.now_s = 0, 1.0
        self.made: dict[int, tuple[str, int]] = {}  # number → source, QoS
        self.promised: set[int] = set()  # numbers that were on disk once
        self.refused: set[int] = set()  # what came behind them may have been on its way
        self.owned: set[int] = set()  # the gateway knows that the broker has it
        self.broker_forgot = False

    def teardown(self) -> None:
        self.settle()
        gateway.mids.MIDS = self.mids

    # --- what may happen

    @rule(source=st.sampled_from(["a", "b", "alarm"]), qos=st.sampled_from([1, 1, 2, 2]),
          early=st.booleans())
    def message(self, source: str, qos: int, early: bool) -> None:
        if len(self.flight.mids.free) <= len(self.strangers):  # each takes one more
            return
        mids = self.flight.mids.take_mids(1)
        assert mids[0] not in {entry.mid for entry in self.disk.values()}, "not free on disk"
        self.last_id += 1
        lane = URGENT if source == "alarm" else LIVE
        entry = Entry(lane << LANE_SHIFT | self.last_id, mids[0], qos, False, False, 0, "#",
                      source, "t", b"%d" % self.last_id)
        self.made[self.last_id] = source, qos
        if early and qos == 1 and not any(what == "insert" for what, _ in self.batches):
            self.flight.add([entry])
            self.batches.append(("early", [entry]))
        else:
            self.batches.append(("insert", [entry]))

    @precondition(lambda self: self.batches)
    @rule()
    def commit(self) -> None:
        what, entries = self.batches.popleft()
        self.write(what, entries)
        if what == "insert":
            self.flight.add(entries)
        elif what == "release":
            self.to_broker.extend(self.flight.released(entries, self.now_s))
        elif what == "done":
            self.flight.mids.free_mids([entry.mid for entry in entries])
        elif what.startswith("renamed"):
            self.flight.strangers.renamed(int(what.split()[1]))
            self.flight.put_back(entries)

    def write(self, what: str, entries: list[Entry]) -> None:
        for entry in entries:
            if what in {"insert", "early"}:
                self.promised.add(number(entry))
                self.disk[entry.key] = stored(entry)
            elif what == "release":
                if entry.key in self.disk:
                    self.disk[entry.key].released = True
            elif what.startswith("renamed"):
                if entry.key in self.disk:
                    self.disk[entry.key].mid = entry.mid
            else:
                self.disk.pop(entry.key, None)

    @precondition(lambda self: self.flight.connected)
    @rule(max_bytes=st.integers(1, 60))
    def send(self, max_bytes: int) -> None:
        self.now_s += 1
        parts, ended = self.flight.send(max_bytes, self.now_s)
        assert not ended
        self.to_broker.extend(parts)

    @precondition(lambda self: self.to_broker)
    @rule(count=st.integers(1, 5), twice=st.booleans())
    def broker_reads(self, count: int, twice: bool = False) -> None:
        for _ in range(min(count, len(self.to_broker))):
            packets, _ = wire.decode(self.to_broker.popleft())
            answers = self.broker.take(packets[0])
            self.to_gateway.extend(answers * (1 + twice))  # PUBREC or PUBCOMP doubled

    @precondition(lambda self: self.to_gateway)
    @rule(count=st.integers(1, 5))
    def gateway_reads(self, count: int) -> None:
        data = b""
        for _ in range(min(count, len(self.to_gateway))):
            part = self.to_gateway.popleft()
            self.broker.answered(part)
            data += part
        acks: list[Any] = wire.decode(data, v5=True, client=True)[0]
        progress = self.flight.acks(acks)
        for entry, reason in progress.refused:
            assert reason == 0x97
            assert self.flight.in_flight[entry.mid] is entry
            self.refused.add(number(entry))
            self.flight.hold(entry.topic)
            self.flight.again(entry.topic)
        for entry in progress.strangers:
            self.refused.add(number(entry))
            found = self.flight.mids.take_mids(1)
            old, entry.mid = entry.mid, found[0]
            self.batches.append((f"renamed {old}", [entry]))
        if progress.reply:
            self.to_broker.extend(bytes(progress.reply[at:at + 4])
                                  for at in range(0, len(progress.reply), 4))
        if progress.release:
            self.owned.update(map(number, progress.release))
            self.batches.append(("release", progress.release))
        if progress.done:
            self.owned.update(map(number, progress.done))
            self.batches.append(("done", progress.done))

    @precondition(lambda self: self.flight.connected)
    @rule(first=st.integers(0, 1), hops=st.integers(1, 8))
    def flow(self, first: int, hops: int) -> None:
        """Everything moves on by so many hops, the common case; the disk first, or last."""
        steps = (self.commit_all, lambda: self.send(200), lambda: self.broker_reads(9),
                 lambda: self.gateway_reads(9))
        for hop in range(first, first + hops):
            steps[hop % 4]()

    def commit_all(self) -> None:
        while self.batches:
            self.commit()

    @precondition(lambda self: self.flight.connected)
    @rule(mid=st.integers(1, MIDS), kind=st.integers(wire.PUBACK, wire.PUBCOMP))
    def stray_acknowledgement(self, mid: int, kind: int) -> None:
        """An acknowledgement of what was not sent here, or of a message to us, ends nothing."""
        entry = self.flight.in_flight.get(mid)
        owed = entry is not None and entry.sent_s > 0
        if kind == wire.PUBREL or (kind == wire.PUBCOMP and entry and not entry.released) \
                or (entry is not None and not owed):
            progress = self.flight.acks([Ack(kind, mid)])
            assert (progress.done, progress.release, bytes(progress.reply)) == ([], [], b"")

    @rule()
    def cut(self) -> None:
        if STRANGER in self.broker.session.values():
            return  # an answer of 0x91 that is lost cannot be told from one that has the message
        self.to_broker.clear()
        self.to_gateway.clear()
        self.flight.stop()

    @precondition(lambda self: not self.flight.connected)
    @rule(keep=st.booleans(), window=st.integers(1, 4))
    def connect(self, keep: bool, window: int) -> None:
        keep = keep or not self.forgets
        if not keep:
            self.broker_forgot = True
        before = list(self.broker.delivered)
        present = self.broker.connect(window, keep)
        orphans = [] if present else self.flight.orphans()
        for entry in orphans:  # sent anew, as gateway/lost_session.py has it: on disk first
            self.commit_all()
            self.disk.pop(entry.key, None)
            self.last_id += 1
            made = self.flight.in_flight[entry.mid] = replace(
                stored(entry), key=entry.key >> LANE_SHIFT << LANE_SHIFT | self.last_id,
                released=False)
            self.disk[made.key] = stored(made)
            self.owned.discard(number(entry))
            self.refused.add(number(entry))  # a crash brings it back with its new key
        self.flight.start(present, Limits(window=window))
        assert self.broker.delivered == before

    @rule(refuse=st.booleans())
    def trouble(self, refuse: bool) -> None:
        self.broker.refuse = refuse and self.says
        if not refuse:
            self.flight.let("t")

    @precondition(lambda self: not self.strangers)
    @rule(written=st.integers(0, 3))
    def crash(self, written: int) -> None:
        """Some batches were written, and nobody was told."""
        for _ in range(min(written, len(self.batches))):
            self.write(*self.batches.popleft())
        self.batches.clear()
        self.cut()
        self.owned -= {number(e) for e in self.disk.values() if not e.released}
        self.flight = Flight()
        self.flight.restore([stored(self.disk[key]) for key in sorted(self.disk)])

    # --- what must hold

    @invariant()
    def what_the_broker_has_is_not_published_again(self) -> None:
        for data in self.to_broker:
            packet = wire.decode(data)[0][0]
            if isinstance(packet, Publish):
                queued_after = int(packet.payload) in self.owned
                assert not queued_after or packet.dup, "published as new though it was received"

    @invariant()
    def exactly_once_while_the_broker_keeps_its_session(self) -> None:
        if not self.broker_forgot:
            twice = [n for n in set(self.broker.delivered) if self.broker.delivered.count(n) > 1]
            assert all(self.made[n][1] == 1 for n in twice)

    @invariant()
    def order_within_a_source(self) -> None:
        last: Counter[tuple[str, int]] = Counter()
        for n in dict.fromkeys(self.broker.delivered):
            source = self.made[n]
            if not self.late:  # else QoS 2 comes later than QoS 1
                source = source[0], 0
            if n in self.refused:
                continue
            assert n > last[source], "out of order"
            last[source] = n

    def settle(self) -> None:
        """No more faults: everything promised arrives, and every identifier comes free."""
        self.trouble(refuse=False)
        self.cut()
        if not self.flight.connected:
            self.connect(keep=True, window=3)
        for _ in range(1000):
            self.flight.let("t")
            self.send(1000)
            while self.to_broker:
                self.broker_reads(5)
            while self.to_gateway:
                self.gateway_reads(5)
            while self.batches:
                self.commit()
            if not self.disk and not self.to_broker:
                break
        self.exactly_once_while_the_broker_keeps_its_session()
        self.order_within_a_source()
        assert self.promised <= set(self.broker.delivered)
        assert all(self.made[n][1] == 1 for n in set(self.broker.delivered) - self.promised)
        assert not self.disk
        assert not self.flight.in_flight
        assert len(self.flight.mids.take_mids(MIDS)) == MIDS, "identifiers leaked"


class FaithfulBroker(Gateway):
    """The broker keeps its session: exactly once holds throughout."""

    forgets = False


class LateBroker(Gateway):
    """It delivers with the PUBREL, and forgets: what is not sent anew is lost."""

    late = True


class SayingBroker(Gateway):
    """As EMQX at MQTT 5: it says what it has and has not, and refuses in passing."""

    forgets = False
    says = True


class StrangeBroker(Gateway):
    """It holds what we know nothing of, from before our outbox."""

    forgets = False
    says = True
    strangers = (2, 3, 7)


TestForgetfulBroker = Gateway.TestCase
TestFaithfulBroker = FaithfulBroker.TestCase
TestLateBroker = LateBroker.TestCase
TestSayingBroker = SayingBroker.TestCase
TestStrangeBroker = StrangeBroker.TestCase
for case in (TestForgetfulBroker, TestFaithfulBroker, TestLateBroker, TestSayingBroker,
             TestStrangeBroker):
    case.settings = settings(max_examples=100, stateful_step_count=50)
