"""gateway/liveness.py and gateway/sending.py: who is slow is there, who is silent is not."""

from __future__ import annotations

from gateway.liveness import ANSWER_S, DEAD_S, MOST_S, PING_S, Liveness
from gateway.sending import MOST, Sending
from gateway.tcp import Moved

SENT = 200_000


def run(link: Liveness, until_s: float, moved: object, *, layered: bool = False) -> float:
    """Look as the link does until it is dead or `until_s` has come; returns when. moved: what the
    kernel says at a time, or None."""
    now_s = 0.0
    while now_s < until_s:
        now_s += link.look_s()
        link.looked(now_s, SENT, moved(now_s), layered=layered)  # type: ignore[operator]
        if link.dead(now_s):
            return now_s
        if link.due(now_s):
            link.wrote(now_s, SENT)
            link.asked(now_s)
    return now_s


def test_dead_cable_is_noticed_while_idle_and_in_the_middle_of_a_message() -> None:
    for queued in (0, 5000):
        def cut(now_s: float, queued: int = queued) -> Moved:
            return Moved(0, 0, queued + 2 * (now_s > PING_S))  # the PINGREQ gets stuck

        assert DEAD_S < run(Liveness(0.0, 10.0), 60.0, cut) < DEAD_S + 1.2


def test_line_that_is_seconds_late_has_more_time_and_not_for_ever() -> None:
    for answer_s, dead_s in ((2.0, DEAD_S), (4.0, 4 * 4.0), (500.0, MOST_S)):
        def cut(now_s: float, answer_s: float = answer_s) -> Moved:
            return Moved(0, 0, 5000, answer_s)

        assert dead_s < run(Liveness(0.0, 200.0), 200.0, cut) < dead_s + 1.2


def test_what_was_lost_is_sent_again_a_few_times_before_the_line_counts_as_dead() -> None:
    def lossy(now_s: float) -> Moved:  # sent again after 4, 12 and 28 s
        return Moved(0, 0, 5000, 3.0, trying=now_s < 28.0)

    assert 28.0 <= run(Liveness(0.0, 200.0), 200.0, lossy) < 30.0


def test_hung_program_is_noticed_though_its_kernel_takes_everything() -> None:
    link = Liveness(0.0, 10.0)
    gone_s = run(link, 60.0, lambda now_s: Moved(int(now_s * 1000), 0, 0))
    assert PING_S + ANSWER_S <= gone_s < PING_S + ANSWER_S + 2.5


def test_long_message_on_a_slow_line_is_waited_for_and_then_the_answer() -> None:
    link = Liveness(0.0, 10.0)
    link.wrote(0.0, SENT)
    slow = 50_000 / 8

    def line(now_s: float) -> Moved:
        return Moved(min(SENT, int(now_s * slow)), 0, max(0, SENT - int(now_s * slow)))

    out_s = SENT / slow
    assert out_s + ANSWER_S - 1 < run(link, 100.0, line) < out_s + ANSWER_S + 2


def test_line_that_stops_in_the_middle_is_given_up() -> None:
    link = Liveness(0.0, 10.0)
    gone_s = run(link, 100.0, lambda now_s: Moved(int(min(now_s, 15.0) * 100), 0, 90_000))
    assert 15.0 + DEAD_S - 1 < gone_s < 15.0 + DEAD_S + 1.5


def test_part_of_a_tls_record_is_a_sign_of_life_where_it_is_not_seen_otherwise() -> None:
    def trickle(now_s: float) -> Moved:
        return Moved(100, int(now_s * 10), 0)

    assert run(Liveness(0.0, 10.0), 30.0, trickle, layered=True) >= 30.0
    assert run(Liveness(0.0, 10.0), 30.0, trickle) < DEAD_S + 2.5


def test_broker_hears_of_us_while_it_does_all_the_talking() -> None:
    link, asked = Liveness(0.0, 10.0), []
    for now_s in range(60):
        link.heard(now_s)
        if link.due(now_s):
            asked.append(now_s)
            link.wrote(now_s, SENT)
            link.asked(now_s)
        assert not link.dead(now_s)
    assert max(b - a for a, b in zip([0, *asked], asked, strict=False)) <= 11


def test_where_the_system_says_nothing_what_the_kernel_took_counts() -> None:
    link = Liveness(0.0, 10.0)
    assert PING_S + ANSWER_S <= run(link, 60.0, lambda _: None) < DEAD_S + 2.5


def test_left_is_told_of_what_was_written_by_then_and_of_nothing_later() -> None:
    sending = Sending(0.0)
    for second in range(1, 5):
        sending.wrote(float(second), second * 100)
    sending.handed(300, 330, 5.0)
    sending.taken(329, 6.0)
    assert sending.left_s(1.0) is None
    sending.taken(330, 7.0)
    assert [sending.left_s(s) for s in (0.5, 1.0, 3.0, 3.1)] == [7.0, 7.0, 7.0, None]
    sending.handed(400, 440, 8.0)
    sending.taken(440, 9.0)
    assert [sending.left_s(s) for s in (3.0, 3.1, 4.0)] == [7.0, 9.0, 9.0]


def test_what_is_noted_of_a_link_that_hardly_moves_has_a_limit() -> None:
    sending = Sending(0.0)
    for number in range(3 * MOST):
        sending.wrote(float(number), number + 1)
        if number % 2:
            sending.handed(number, number, float(number))
    assert max(map(len, (sending._written, sending._handed, sending._left))) <= MOST
    sending.handed(3 * MOST, 3 * MOST, 1e6)
    sending.taken(3 * MOST, 1e6)
    assert sending.left_s(3.0 * MOST - 1) == 1e6
