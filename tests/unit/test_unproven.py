"""gateway/unproven.py and flight.unsend: QoS 0 ends when it has left, and not by being written."""

from __future__ import annotations

from gateway.batch import LANE_SHIFT, Entry
from gateway.flight import Flight, Limits
from gateway.routes import BACKLOG, LIVE, URGENT
from gateway.unproven import Unproven
from gateway.wire import Publish, decode


def entry(number: int, lane: int = LIVE) -> Entry:
    return Entry(lane << LANE_SHIFT | number, 0, 0, False, False, 0, "#", "s", "t", b"%d" % number)


def payloads(flight: Flight) -> list[bytes]:
    """What is sent now."""
    packets, _ = decode(b"".join(flight.send(1000, 2.0)[0]), v5=False)
    return [packet.payload for packet in packets if isinstance(packet, Publish)]


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


def test_what_did_not_leave_goes_behind_what_was_sent_before_it_whatever_their_lanes() -> None:
    """The backlog of another source is in flight, and comes after the live ones by its key."""
    flight, unproven = Flight(), entry(2)
    other, before, behind = entry(9, BACKLOG), entry(1), entry(3)
    other.mid, before.mid, behind.mid = 9, 1, 3
    other.qos = before.qos = behind.qos = 1
    flight.start(True, Limits())
    for sent in other, before, unproven, behind:
        flight.add([sent])
        flight.send(1000, 1.0)
    flight.stop()
    flight.unsend([unproven])
    flight.start(True, Limits())
    assert payloads(flight) == [b"9", b"1", b"2", b"3"]


def test_what_did_not_leave_waits_with_its_topic_and_goes_when_that_is_let() -> None:
    flight, unproven, behind = Flight(), entry(1), entry(2)
    behind.qos, behind.mid = 1, 2
    flight.start(True, Limits())
    flight.add([unproven, behind])
    flight.send(1000, 1.0)
    flight.stop()
    flight.unsend([unproven])
    flight.start(True, Limits())
    flight.hold("t")
    assert payloads(flight) == []
    flight.let("t")
    assert sorted(payloads(flight)) == [b"1", b"2"]


def test_what_went_at_qos_0_to_a_broker_without_more_and_did_not_leave_goes_again() -> None:
    flight, none = Flight(qos_0=True), Limits(max_qos=0)
    entries = [entry(n) for n in (1, 2)]
    for mid, made in enumerate(entries, 1):
        made.qos, made.mid = 1, mid
    flight.start(True, Limits())
    flight.add(entries)
    flight.send(1000, 1.0)
    flight.stop()
    flight.start(True, none)
    flight.send(1, 2.0)
    flight.stop()
    flight.unsend(entries[:1])
    flight.start(True, none)
    assert payloads(flight) == [b"1", b"2"]


def test_what_did_not_leave_and_is_too_big_by_now_waits_for_another_connection() -> None:
    flight, unproven, behind = Flight(), entry(1), entry(2)
    behind.qos, behind.mid = 1, 2
    flight.start(True, Limits())
    flight.add([unproven, behind])
    flight.send(1000, 1.0)
    flight.stop()
    flight.unsend([unproven])
    flight.start(True, Limits(max_packet_bytes=2))
    assert payloads(flight) == []
    flight.stop()
    flight.start(True, Limits())
    assert sorted(payloads(flight)) == [b"1", b"2"]
