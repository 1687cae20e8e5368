"""gateway/flight.py: single rules that the model in test_flight_model.py does not reach."""

from __future__ import annotations

from gateway.batch import LANE_SHIFT, Entry
from gateway.flight import Flight, Limits
from gateway.routes import BACKLOG, LIVE


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
