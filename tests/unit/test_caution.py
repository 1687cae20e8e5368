"""gateway/caution.py: what a broker closes on is found in a few closes, and nobody else is blamed.

`Site` is flight.py and caution.py against a broker that closes as a test wants it, in time that a
test passes in.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import pytest

from gateway import wire
from gateway.batch import LANE_SHIFT, Entry
from gateway.caution import TRIALS, Caution
from gateway.flight import Flight, Limits
from gateway.routes import LIVE
from gateway.wire import Ack, Packet, Publish

ONLINE = b"online"
RECONNECT_S = 0.6  # what a close costs
STEP_S = 0.1
Closes = Callable[[Packet, int], bool]  # of a packet, and how many came before on this connection


class Site:
    """arrived: (when [s], payload). lost_acks: a close takes the answers before it along."""

    def __init__(self, closes: Closes, *, window: int = 20, lost_acks: bool = False) -> None:
        self.flight, self.caution = Flight(), Caution()
        self.now_s = 1.0
        self.closes_on, self.window, self.lost_acks = closes, window, lost_acks
        self.arrived: list[tuple[float, bytes]] = []
        self.blamed: list[Entry] = []
        self.closes = 0
        self.windows: list[int] = []
        self._last = 0

    def add(self, *payloads: bytes, topic: str = "", qos: int = 1) -> None:
        if ONLINE in payloads and any(e.topic == "own" for e in self.flight.in_flight.values()):
            return
        for payload in payloads:
            self._last += 1
            mid, = self.flight.mids.take_mids(1)
            self.flight.add([Entry(LIVE << LANE_SHIFT | self._last, mid, qos, False, False, 0, "#",
                                   "s", topic or f"t/{payload.decode()}", payload)])

    def run(self, for_s: float) -> None:
        end_s = self.now_s + for_s
        while self.now_s < end_s:
            if not self.flight.connected:
                self._connect()
            self._exchange()
            self.now_s += STEP_S

    def _connect(self) -> None:
        self.now_s += RECONNECT_S
        first = self.caution.connected(self.flight, self.now_s)
        self._apply()
        self.flight.start(True, Limits(window=self.window), first)
        self._came = 0
        self.add(ONLINE, topic="own")  # as the gateway does where none is in flight

    def _apply(self) -> None:
        for key in set(self.caution.accused) - self.flight.held:
            self.flight.hold(key)
        for key in self.flight.held - set(self.caution.accused):
            self.flight.let(key)
        self.flight.most = self.caution.most

    def _exchange(self) -> None:
        """Send and answer until nothing moves."""
        while True:
            if found := self.caution.look(self.flight, self.now_s):
                if found[1] is not None:
                    self.flight.alone(found[1])
                self._apply()
            parts, _ = self.flight.send(1_000_000, self.now_s)
            if not parts:
                return
            acks: list[Ack] = []
            for packet in wire.decode(b"".join(parts))[0]:
                if self.closes_on(packet, self._came):
                    if not self.lost_acks:
                        self._take(acks)
                    self._close()
                    return
                self._came += 1
                if isinstance(packet, Publish):
                    self.arrived.append((self.now_s, packet.payload))
                    acks.append(Ack(wire.PUBACK if packet.qos == 1 else wire.PUBREC, packet.mid))
                elif isinstance(packet, Ack):
                    acks.append(Ack(wire.PUBCOMP, packet.mid))
            self._take(acks)

    def _take(self, acks: list[Ack]) -> None:
        progress = self.flight.acks(acks)
        if self.caution.active:
            cleared = self.caution.answered(len(acks), self.flight)
            if cleared is not None:
                self.flight.let(cleared)
            if self.caution.window:
                self.windows.append(self.caution.window)
                self.window, self.caution.window = self.caution.window, 0
        self._apply()
        parts = self.flight.released(progress.release, self.now_s)
        answers = []
        for ack in wire.decode(b"".join(parts))[0]:
            assert isinstance(ack, Ack)
            if self.closes_on(ack, self._came):
                self._take(answers)
                self._close()
                return
            answers.append(Ack(wire.PUBCOMP, ack.mid))
        if answers:
            self._take(answers)

    def _close(self) -> None:
        self.closes += 1
        blamed = self.caution.lost(self.flight.unanswered(), self.flight.open)
        if blamed is not None:
            self.blamed.append(blamed)
            self.flight.remove(blamed)
        self.flight.stop()

    def payloads(self) -> set[bytes]:
        return {payload for _, payload in self.arrived} - {ONLINE}


def is_bad(packet: Packet, _came: int) -> bool:
    return isinstance(packet, Publish) and packet.payload.startswith(b"bad")


def good(count: int, first: int = 0) -> list[bytes]:
    return [b"%d" % n for n in range(first, first + count)]


@pytest.mark.parametrize("qos", [1, 2])
@pytest.mark.parametrize("lost_acks", [False, True])
@pytest.mark.parametrize("before", [0, 1, 7, 19, 45])
def test_bad_message_is_found_and_all_others_arrive(qos: int, lost_acks: bool,
                                                    before: int) -> None:
    site = Site(is_bad, lost_acks=lost_acks)
    site.add(*good(before), qos=qos)
    site.add(b"bad", qos=qos)
    site.add(*good(60, before), qos=qos)
    site.run(20)
    assert [entry.payload for entry in site.blamed] == [b"bad"]
    assert site.payloads() == set(good(before + 60))
    assert site.closes <= TRIALS + (12 if lost_acks else 3)
    assert not site.flight.in_flight


def test_bad_message_costs_others_seconds() -> None:
    site = Site(is_bad)
    site.add(b"bad", *good(5))
    site.run(0.1)
    for number in range(100, 300):  # ten a second go on
        site.add(b"%d" % number)
        site.run(STEP_S)
    times = [1.0] + [when for when, payload in site.arrived if payload != b"bad"]
    gaps = [later - before for before, later in pairwise(times)]
    assert max(gaps) < 4
    assert len(site.blamed) == 1


def test_bad_message_every_ten_seconds_stops_nothing_else() -> None:
    site = Site(is_bad)
    for number in range(600):
        if number % 100 == 0:
            site.add(b"bad%d" % number)
        site.add(b"%d" % number)
        site.run(STEP_S)
    site.run(15)
    assert len(site.blamed) == 6
    assert site.payloads() == set(good(600))
    late = [when for when, _ in site.arrived][-1]
    assert late < 1.0 + 600 * STEP_S + 40


def test_topic_that_was_to_blame_costs_one_close_a_message() -> None:
    site = Site(is_bad)
    site.add(b"bad0", topic="evil")
    site.add(*good(5))
    site.run(15)
    before = site.closes
    site.add(*(b"bad%d" % n for n in range(1, 11)), topic="evil")
    for number in range(100, 500):
        site.add(b"%d" % number)
        site.run(STEP_S)
    assert len(site.blamed) == 11
    assert site.closes - before <= 12
    assert site.payloads() >= set(good(5))


@pytest.mark.parametrize("qos", [1, 2])
def test_innocent_ahead_of_the_accused_on_its_topic_acquits_only_itself(qos: int) -> None:
    """As one that is sent anew at each connection, since the broker forgets the session."""
    class Again(Site):
        def _connect(self) -> None:
            self._last += 1
            mid, = self.flight.mids.take_mids(1)
            ahead = Entry(LIVE << LANE_SHIFT | self._last, mid, qos, False, False, 0, "#", "s",
                          "one", b"ahead")
            self.flight.in_flight = {mid: ahead} | self.flight.in_flight
            super()._connect()

    site = Again(is_bad)
    site.add(b"0", b"bad", b"1", b"2", topic="one", qos=qos)
    site.run(25)
    assert [entry.payload for entry in site.blamed] == [b"bad"]
    assert site.payloads() == {b"0", b"1", b"2", b"ahead"}
    assert site.closes < 8


def test_what_is_behind_the_accused_on_its_topic_keeps_its_order() -> None:
    """It was innocent: the broker was away three times as it was sent."""
    hits = [3]

    def three_times(packet: Packet, _came: int) -> bool:
        unlucky = isinstance(packet, Publish) and packet.payload == b"7" and hits[0] > 0
        hits[0] -= unlucky
        return unlucky

    site = Site(three_times)
    site.add(b"7", b"8", b"9", topic="one")
    site.add(*good(5))
    site.run(20)
    assert site.blamed == []
    assert [p for _, p in site.arrived if p in (b"7", b"8", b"9")] == [b"7", b"8", b"9"]
    assert not site.flight.held


@pytest.mark.parametrize("after", [0, 1, 2, 5])
@pytest.mark.parametrize("qos", [1, 2])
def test_broker_that_closes_after_some_packets_blames_nobody(after: int, qos: int) -> None:
    site = Site(lambda _packet, came: came >= after)
    site.add(*good(40), qos=qos)
    site.run(120)
    assert site.blamed == []
    site.closes_on = lambda _packet, _came: False
    site.run(30)
    assert site.payloads() == set(good(40))
    assert not site.flight.in_flight
    assert not site.caution.active


def test_broker_that_hangs_up_at_random_times_loses_nothing() -> None:
    turn = [0]

    def now_and_then(_packet: Packet, _came: int) -> bool:
        turn[0] += 1
        return turn[0] % 7 == 0

    site = Site(now_and_then)
    site.add(*good(300))
    site.run(200)
    assert site.payloads() | {e.payload for e in site.blamed} == set(good(300))
    assert not site.blamed


def test_broker_with_a_limit_of_its_own_gets_a_smaller_window() -> None:
    """EMQX at MQTT 3.1.1 hangs up over max_awaiting_rel, 100 by default."""
    held: set[int] = set()

    def over_100(packet: Packet, _came: int) -> bool:
        if isinstance(packet, Publish):
            if len(held - {packet.mid}) >= 100:
                return True
            held.add(packet.mid)
        elif isinstance(packet, Ack):
            held.discard(packet.mid)
        return False

    site = Site(over_100, window=1000)
    site.add(*good(1500), qos=2)
    site.run(60)
    assert site.blamed == []
    assert site.payloads() == set(good(1500))
    assert site.windows
    assert all(10 <= window <= 100 for window in site.windows)
    assert site.closes < 15


def test_pubrel_that_a_broker_closes_over_is_given_up_and_data_flows() -> None:
    """rumqttd closes over a PUBREL that it has completed, whose PUBCOMP was lost."""
    completed: set[int] = set()
    site = Site(lambda packet, _came: isinstance(packet, Ack) and packet.mid in completed)
    entries = []
    for number, mid in enumerate(site.flight.mids.take_mids(15), 1):
        entry = Entry(LIVE << LANE_SHIFT | number, mid, 2, False, True, 0, "#", "s", "t", b"old")
        entries.append(entry)
        completed.add(mid)
    site.flight.restore(entries)
    site.add(*good(50), qos=2)
    site.run(5)
    assert site.payloads() == set(good(50))
    site.run(60)
    assert len(site.blamed) == 15
    assert not site.flight.in_flight
    assert site.closes < 30


def test_new_pubrels_that_were_under_way_do_not_wait_for_an_accused_one() -> None:
    """All PUBRELs are held back then: a search among these would never end."""
    completed: set[int] = set()
    fails = [True]  # once, over a PUBREL of others

    def closes(packet: Packet, _came: int) -> bool:
        return isinstance(packet, Ack) and (packet.mid in completed or bool(fails and fails.pop()))

    site = Site(closes)
    completed.update(site.flight.mids.take_mids(1))
    old = Entry(LIVE << LANE_SHIFT, *completed, 2, False, True, 0, "#", "s", "t", b"old")
    site.flight.restore([old])
    while not site.caution.accused:
        site.run(STEP_S)
    assert fails
    site.add(*good(3), qos=2)
    site.run(30)
    assert not fails
    assert site.payloads() == set(good(3))
    assert site.blamed == [old]
    assert not site.flight.in_flight
    assert not site.caution.active


def test_link_that_is_cut_blames_nobody() -> None:
    site = Site(lambda _packet, _came: False)
    site.add(*good(3))
    for _ in range(20):
        site.run(STEP_S)
        site.flight.stop()  # nobody said that the broker did it
    assert not site.caution.active
    assert site.payloads() == set(good(3))


def test_broker_that_closes_with_nothing_in_flight_is_not_suspected() -> None:
    caution = Caution()
    for _ in range(20):
        assert caution.lost([], 0) is None
    assert not caution.active
