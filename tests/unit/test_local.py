"""gateway/local.py: sessions, subscriptions and retained messages."""

from __future__ import annotations

from gateway import wire
from gateway.local import (
    FEED_BYTES,
    QUEUE_BYTES,
    QUEUE_LIMIT,
    WINDOW,
    WINDOW_BYTES,
    Locals,
    Session,
)
from gateway.wire import Publish


def message(topic: str = "a/b", payload: bytes = b"x", qos: int = 1,
            retain: bool = False) -> Publish:
    return Publish(topic, payload, qos, retain, False, 7 if qos else 0)


def present(session: Session) -> Session:
    session.out = bytearray()
    return session


def sent(session: Session) -> list[Publish]:
    assert session.out is not None
    packets, used = wire.decode(bytes(session.out))
    assert used == len(session.out)
    session.out.clear()
    return [packet for packet in packets if isinstance(packet, Publish)]


def house() -> Locals:
    return Locals({})


def test_message_reaches_those_who_subscribe_once_each() -> None:
    locals_ = house()
    one, two, other = (present(locals_.open(name, True)[0]) for name in ("1", "2", "3"))
    locals_.subscribe(one, "a/+", 0)
    locals_.subscribe(one, "#", 1)  # the higher QoS counts, section 3.3.5
    locals_.subscribe(two, "a/b", 0)
    locals_.subscribe(other, "c", 2)
    touched: set[Session] = set()
    locals_.publish(message(), touched)
    assert touched == {one, two}
    assert [p.qos for p in sent(one)] == [1]
    assert [p.qos for p in sent(two)] == [0]
    assert sent(other) == []


def test_subscription_is_granted_qos_1_at_most() -> None:
    locals_ = house()
    session = present(locals_.open("c", True)[0])
    assert [locals_.subscribe(session, "a", qos) for qos in (0, 1, 2)] == [0, 1, 1]


def test_retained_message_is_given_to_a_new_subscription_with_the_flag() -> None:
    locals_ = house()
    locals_.retain(message("a/b", b"kept", 1, True))
    session = present(locals_.open("c", True)[0])
    locals_.send_retained(session, "a/#", locals_.subscribe(session, "a/#", 0))
    assert [(p.payload, p.retain, p.qos) for p in sent(session)] == [(b"kept", True, 0)]
    locals_.publish(message("a/b", b"new", 0, True), set())
    assert [(p.payload, p.retain) for p in sent(session)] == [(b"new", False)]  # MQTT-3.3.1-9


def test_empty_payload_forgets_the_retained_message() -> None:
    locals_ = house()
    locals_.retain(message("a", b"kept", 1, True))
    locals_.retain(message("a", b"", 1, True))
    assert locals_.retained == {}


def test_persistent_session_queues_while_its_client_is_away() -> None:
    locals_ = house()
    session, was_there = locals_.open("c", False)
    assert not was_there
    locals_.subscribe(session, "#", 1)
    locals_.publish(message(payload=b"1"), set())
    locals_.publish(message(payload=b"lost", qos=0), set())
    locals_.publish(message(payload=b"2"), set())
    again, was_there = locals_.open("c", False)
    assert again is session
    assert was_there
    present(session).resume()
    assert [p.payload for p in sent(session)] == [b"1", b"2"]


def test_unacknowledged_messages_come_again_with_dup_and_the_same_identifier() -> None:
    locals_ = house()
    session = present(locals_.open("c", False)[0])
    locals_.subscribe(session, "#", 1)
    for payload in (b"1", b"2"):
        locals_.publish(message(payload=payload), set())
    first = sent(session)
    session.acknowledged(first[0].mid)
    session.out = None
    present(session).resume()
    assert [(p.payload, p.mid, p.dup) for p in sent(session)] == [(b"2", first[1].mid, True)]


def test_clean_connect_forgets_the_session() -> None:
    locals_ = house()
    session = locals_.open("c", False)[0]
    locals_.subscribe(session, "#", 1)
    fresh, was_there = locals_.open("c", True)
    assert fresh is not session
    assert not was_there
    present(fresh)
    touched: set[Session] = set()
    locals_.publish(message(), touched)
    assert touched == set()


def test_session_of_a_clean_client_is_not_resumed() -> None:
    locals_ = house()
    locals_.open("c", True)
    assert locals_.open("c", False)[1] is False


def test_window_limits_what_is_in_flight_and_acknowledgements_open_it() -> None:
    locals_ = house()
    session = present(locals_.open("c", False)[0])
    locals_.subscribe(session, "#", 1)
    for number in range(WINDOW + 3):
        locals_.publish(message(payload=b"%d" % number), set())
    first = sent(session)
    assert len(first) == WINDOW
    for packet in first:
        session.acknowledged(packet.mid)
    assert [p.payload for p in sent(session)] == [b"%d" % n for n in range(WINDOW, WINDOW + 3)]
    session.acknowledged(first[0].mid)  # a second time: nothing happens
    assert sent(session) == []


def test_queue_of_an_absent_client_is_bounded() -> None:
    locals_ = house()
    session = locals_.open("c", False)[0]
    locals_.subscribe(session, "#", 1)
    for _ in range(QUEUE_LIMIT + 5):
        locals_.publish(message(), set())
    assert (len(session.queue), session.dropped) == (QUEUE_LIMIT, 5)


def test_queue_of_an_absent_client_is_bounded_in_bytes_too() -> None:
    locals_ = house()
    session = locals_.open("c", False)[0]
    locals_.subscribe(session, "#", 1)
    most = QUEUE_BYTES // 200_000
    for _ in range(most + 5):
        locals_.publish(message(payload=bytes(200_000)), set())
    assert (len(session.queue), session.dropped) == (most, 5)
    present(session).resume()
    came = sent(session)
    assert sum(len(p.payload) for p in came) < WINDOW_BYTES + 200_000
    while came:  # what has left the queue and the window makes room in them
        count = len(came)
        for packet in came:
            session.acknowledged(packet.mid)
        most -= count
        came = sent(session)
    assert most == 0
    session.out = None
    for _ in range(QUEUE_BYTES // 200_000):
        locals_.publish(message(payload=bytes(200_000)), set())
    assert session.dropped == 5


def test_resume_sends_again_no_more_than_the_window() -> None:
    locals_ = house()
    session = present(locals_.open("c", False)[0])
    locals_.subscribe(session, "#", 1)
    for _ in range(20):
        locals_.publish(message(payload=bytes(200_000)), set())
    first = sent(session)
    session.out = None
    present(session).resume()
    assert [p.mid for p in sent(session)] == [p.mid for p in first]
    assert len(first) == WINDOW_BYTES // 200_000 + 1


def test_all_that_is_retained_comes_at_qos_1_as_it_is_acknowledged() -> None:
    count = QUEUE_LIMIT + WINDOW + 50
    locals_ = house()
    for number in range(count):
        locals_.retain(message(f"d/{number}", b"x", 1, True))
    session = present(locals_.open("c", True)[0])
    locals_.send_retained(session, "#", locals_.subscribe(session, "#", 1))
    came = []
    while batch := sent(session):
        came += batch
        for packet in batch:
            session.acknowledged(packet.mid)
    assert [p.topic for p in came] == [f"d/{n}" for n in range(count)]
    assert all(p.retain and p.qos == 1 for p in came)


def test_retained_messages_at_qos_0_come_as_the_socket_takes_them_and_as_they_are_then() -> None:
    locals_ = house()
    for name in "abcdefg":
        locals_.retain(message(name, b"1" * (FEED_BYTES // 2), 0, True))
    session = present(locals_.open("c", True)[0])
    for topic_filter in "#", "+":
        locals_.send_retained(session, topic_filter,
                              locals_.subscribe(session, topic_filter, 0))
    assert [p.topic for p in sent(session)] == ["a", "b"]
    locals_.retain(message("c", b"new", 0, True))
    locals_.retain(message("d", b"", 0, True))
    session.feed()
    assert [(p.topic, p.payload[:3]) for p in sent(session)] == [
        ("c", b"new"), ("e", b"111"), ("f", b"111")]
    locals_.unsubscribe(session, "+")
    session.feed()
    assert [p.topic for p in sent(session)] == ["g", "a"]
    locals_.unsubscribe(session, "#")
    session.feed()
    assert sent(session) == []


def test_unsubscribe_ends_it() -> None:
    locals_ = house()
    session = present(locals_.open("c", True)[0])
    locals_.subscribe(session, "#", 0)
    locals_.unsubscribe(session, "#")
    locals_.unsubscribe(session, "never")
    locals_.publish(message(qos=0), set())
    assert sent(session) == []
