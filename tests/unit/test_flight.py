"""gateway/flight.py: single rules that the model in test_flight_model.py does not reach."""

from __future__ import annotations

from gateway.batch import LANE_SHIFT, Entry
from gateway.flight import Flight, Limits
from gateway.routes import BACKLOG, LIVE
from gateway.wire import PUBREC, PUBREL, Ack, encode_ack


def entry(number: int, lane: int, qos: int, mid: int = 0) -> Entry:
    return Entry(lane << LANE_SHIFT | number, mid, qos, False, False, 0, "#", "s", "t",
                 b"%d" % number)


def test_qos_0_of_the_backlog_waits_for_what_waits_for_the_window() -> None:
    flight = Flight()
    flight.start(True, Limits(window=1))
    mids = flight.take_mids(2)
    flight.add([entry(1, LIVE, 1, mids[0]), entry(2, LIVE, 1, mids[1]), entry(3, BACKLOG, 0)])
    parts, ended = flight.send(1000, 1.0)
    assert (len(parts), ended) == (1, [])


def test_qos_0_is_marked_as_sent() -> None:
    flight = Flight()
    message = entry(1, LIVE, 0)
    flight.start(True, Limits())
    flight.add([message])
    assert flight.send(1000, 1.0)[1] == [message]
    assert message.sent


def test_qos_0_after_a_reconnect_is_marked_as_sent() -> None:
    flight = Flight()
    message = entry(1, LIVE, 1, flight.take_mids(1)[0])
    flight.start(True, Limits())
    flight.add([message])
    flight.send(1000, 1.0)
    flight.stop()
    flight.start(False, Limits(max_qos=0))
    assert not message.sent
    assert flight.send(1000, 2.0)[1] == [message]
    assert message.sent


def taken(flight: Flight, count: int) -> list[Entry]:
    """QoS 2 messages sent at 1.0 s, of which the first has its PUBREC at 2.0 s."""
    entries = [entry(n, LIVE, 2, mid) for n, mid in enumerate(flight.take_mids(count), 1)]
    flight.start(True, Limits())
    flight.add(entries)
    flight.send(1000, 1.0)
    assert flight.acks([Ack(PUBREC, entries[0].mid)]).release == entries[:1]
    return entries


def test_upstream_is_not_blamed_for_what_waits_for_our_disk() -> None:
    flight = Flight()
    first, second = taken(flight, 2)
    assert flight.overdue(100.0, 5.0) is second
    assert flight.acks([Ack(PUBREC, second.mid)]).release == [second]
    assert flight.overdue(100.0, 5.0) is None
    assert flight.released([first, second], 100.0) == [encode_ack(PUBREL, e.mid)
                                                       for e in (first, second)]


def test_upstream_has_its_time_for_the_pubcomp_from_the_pubrel_on() -> None:
    flight = Flight()
    first, = taken(flight, 1)
    flight.released([first], 100.0)
    assert flight.overdue(104.0, 5.0) is None
    assert flight.overdue(106.0, 5.0) is first


def test_released_after_a_reconnect_counts_from_its_own_send() -> None:
    flight = Flight()
    first, = taken(flight, 1)
    flight.stop()
    flight.start(True, Limits())
    flight.released([first], 100.0)
    assert flight.overdue(200.0, 5.0) is None  # not sent on this connection
    flight.send(1000, 200.0)
    assert flight.overdue(206.0, 5.0) is first
