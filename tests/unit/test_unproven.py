"""gateway/unproven.py and flight.unsend: QoS 0 ends when it has left, and not by being written."""

from __future__ import annotations

from gateway.batch import LANE_SHIFT, Entry
from gateway.flight import Flight, Limits
from gateway.routes import LIVE, URGENT
from gateway.unproven import Unproven


def entry(number: int, lane: int = LIVE) -> Entry:
    return Entry(lane << LANE_SHIFT | number, 0, 0, False, False, 0, "#", "s", "t", b"%d" % number)


def test_what_has_left_is_taken_out_in_order_and_the_rest_stays() -> None:
    unproven, entries = Unproven(), [entry(n) for n in range(4)]
    unproven.sent(entries[:2], 1.0)
    unproven.sent(entries[2:], 2.0)
    assert unproven.arrived(lambda written_s: 5.0 if written_s < 2 else None) == entries[:2]
    assert unproven.lost() == entries[2:]
    assert not unproven


def test_what_did_not_leave_goes_first_on_the_next_connection_in_its_order() -> None:
    flight, entries = Flight(), [entry(1, URGENT), entry(2), entry(3), entry(4)]
    flight.start(True, Limits())
    flight.add(entries[:3])
    assert flight.send(1000, 1.0)[1] == entries[:3]
    flight.add(entries[3:])
    flight.stop()
    flight.unsend(entries[:3])
    assert flight.acknowledged == 0
    flight.start(True, Limits())
    assert flight.send(1000, 2.0)[1] == entries
