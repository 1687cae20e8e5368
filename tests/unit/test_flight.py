"""gateway/flight.py: single rules that the model in test_flight_model.py does not reach."""

from __future__ import annotations

import pytest

from gateway.batch import LANE_SHIFT, Entry
from gateway.flight import Flight, Limits
from gateway.mids import MIDS
from gateway.routes import BACKLOG, LIVE
from gateway.wire import (
    PUBCOMP,
    PUBREC,
    PUBREL,
    Ack,
    encode_ack,
    encode_publish,
    encode_text,
)


def entry(number: int, lane: int, qos: int, mid: int = 0) -> Entry:
    return Entry(lane << LANE_SHIFT | number, mid, qos, False, False, 0, "#", "s", "t",
                 b"%d" % number)


def test_qos_0_of_the_backlog_waits_for_what_waits_for_the_window() -> None:
    flight = Flight()
    flight.start(True, Limits(window=1))
    mids = flight.mids.take_mids(2)
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
    flight = Flight(qos_0=True)
    message = entry(1, LIVE, 1, flight.mids.take_mids(1)[0])
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
    entries = [entry(n, LIVE, 2, mid) for n, mid in enumerate(flight.mids.take_mids(count), 1)]
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


# --- reason codes


def sent(flight: Flight, *, qos: int = 2, earlier: bool = False) -> Entry:
    """A message that waits for its answer; earlier: from an earlier connection of the session."""
    message = entry(1, LIVE, qos, flight.mids.take_mids(1)[0])
    flight.start(True, Limits(v5=True))
    flight.add([message])
    flight.send(1000, 1.0)
    if earlier:
        flight.stop()
        flight.start(True, Limits(v5=True))
        flight.send(1000, 2.0)
    return message


def test_0x91_for_what_was_sent_before_is_a_pubrec() -> None:
    flight = Flight()
    message = sent(flight, earlier=True)
    progress = flight.acks([Ack(PUBREC, message.mid, 0x91)])
    assert progress.release == [message]
    assert not progress.refused
    assert flight.released([message], 3.0) == [encode_ack(PUBREL, message.mid)]
    assert flight.acks([Ack(PUBCOMP, message.mid)]).done == [message]


@pytest.mark.parametrize("on_disk_first", [True, False])
def test_0x91_for_what_was_never_sent_releases_the_stranger_and_takes_another_identifier(
        on_disk_first: bool) -> None:
    flight = Flight()
    message = sent(flight)
    old = message.mid
    progress = flight.acks([Ack(PUBREC, old, 0x91)])
    assert bytes(progress.reply) == encode_ack(PUBREL, old)
    assert progress.strangers == [message]
    assert not progress.release
    message.mid, = flight.mids.take_mids(1)
    for step in (on_disk_first, not on_disk_first):
        assert old in flight.mids.taken
        if step:
            flight.strangers.renamed(old)
        else:
            flight.acks([Ack(PUBCOMP, old)])
    assert old not in flight.mids.taken
    flight.put_back([message])
    part, = flight.send(1000, 2.0)[0]
    assert part == encode_publish(encode_text("t"), b"1", 2, False, False, message.mid, v5=True)


def test_stranger_is_released_again_in_its_session_alone() -> None:
    flight = Flight()
    old = sent(flight).mid
    flight.acks([Ack(PUBREC, old, 0x91)])
    flight.strangers.renamed(old)
    flight.stop()
    flight.start(True, Limits(v5=True))
    assert flight.send(1000, 2.0)[0] == [encode_ack(PUBREL, old)]
    flight.stop()
    flight.start(False, Limits(v5=True))
    assert flight.send(1000, 3.0)[0] == []
    assert old not in flight.mids.taken


@pytest.mark.parametrize("reason", [0, 0x92])
def test_pubcomp_ends_a_message_whatever_it_says(reason: int) -> None:
    flight = Flight()
    message = sent(flight)
    flight.acks([Ack(PUBREC, message.mid)])
    flight.released([message], 2.0)
    assert flight.acks([Ack(PUBCOMP, message.mid, reason)]).done == [message]


@pytest.mark.parametrize("earlier", [True, False])
def test_what_was_refused_goes_again_with_dup_only_where_the_upstream_may_hold_it(
        earlier: bool) -> None:
    flight = Flight()
    message = sent(flight, earlier=earlier)
    assert flight.acks([Ack(PUBREC, message.mid, 0x97)]).refused == [(message, 0x97)]
    assert flight.open == 0
    flight.again("t")
    part, = flight.send(1000, 3.0)[0]
    assert bool(part[0] & 8) == earlier


def test_without_the_dup_flag_what_is_sent_again_says_nothing_of_it() -> None:
    flight = Flight(dup_flag=False)
    message = sent(flight)
    flight.stop()
    flight.start(True, Limits(v5=True))
    part, = flight.send(1000, 2.0)[0]
    assert not part[0] & 8
    progress = flight.acks([Ack(PUBREC, message.mid, 0x91)])  # EMQX has it
    assert progress.release == [message]


def test_topic_that_is_held_keeps_its_order() -> None:
    flight = Flight()
    first = sent(flight)
    flight.acks([Ack(PUBREC, first.mid, 0x97)])
    flight.hold("t")
    flight.add([entry(2, LIVE, 2, flight.mids.take_mids(1)[0])])
    assert flight.send(1000, 2.0)[0] == []
    flight.again("t")
    assert len(flight.send(1000, 3.0)[0]) == 1
    flight.acks([Ack(PUBREC, first.mid)])
    flight.let("t")
    assert [part[-1:] for part in flight.send(1000, 4.0)[0]] == [b"2"]


@pytest.mark.parametrize("alone", [False, True])
def test_what_waits_to_be_sent_again_goes_once_however_often_it_is_asked_for(alone: bool) -> None:
    """The first of a topic was refused a second time, and the next still waits for the window."""
    flight = Flight()
    flight.start(True, Limits(window=2))
    flight.add([entry(n, LIVE, 2, n) for n in (1, 2)])
    flight.send(1000, 1.0)
    flight.hold("t")
    flight.acks([Ack(PUBREC, 1, 0x97), Ack(PUBREC, 2, 0x97)])
    flight.limits.window = 1
    flight.again("t")
    flight.send(1000, 2.0)
    flight.acks([Ack(PUBREC, 1, 0x97)])
    flight.limits.window = 3
    if alone:
        flight.alone(flight.in_flight[2])
    else:
        flight.again("t")
    parts, _ = flight.send(1000, 3.0)
    assert len(parts) == len(set(parts)) == 2 - alone


def test_packet_identifiers_begin_somewhere_else_after_a_restart() -> None:
    first = {Flight().mids.take_mids(1)[0] for _ in range(20)}
    assert len(first) > 10
    kept = entry(1, LIVE, 2, 7)
    flight = Flight()
    flight.restore([kept])
    assert 7 not in flight.mids.take_mids(MIDS)
    assert sorted(flight.mids.taken) == list(range(1, MIDS + 1))
