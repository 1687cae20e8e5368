"""gateway/pacer.py: when a batch starts."""

from __future__ import annotations

from gateway.pacer import BURST, BUSY_PER_S, FLOOD_PER_S, Pacer

COMMIT_S = 0.25


def spent(now_s: float = 0.0) -> Pacer:
    pacer = Pacer(COMMIT_S, 1000)
    for _ in range(BURST):
        assert pacer.delay_s(1, now_s) == 0
        pacer.committed(now_s)
    return pacer


def test_quiet_gateway_commits_a_few_times_at_once_and_then_in_its_interval() -> None:
    assert 0 < spent().delay_s(1, 0.0) <= COMMIT_S


def test_wait_ends_after_the_interval() -> None:
    pacer = spent()
    assert pacer.delay_s(1, COMMIT_S) == 0
    pacer.committed(COMMIT_S)
    assert pacer.delay_s(1, COMMIT_S) > 0


def test_silence_gives_the_burst_back_but_no_more() -> None:
    pacer = spent()
    for _ in range(BURST):
        assert pacer.delay_s(1, 1000.0) == 0
        pacer.committed(1000.0)
    assert pacer.delay_s(1, 1000.0) > 0


def test_commit_bytes_waiting_are_committed_at_once() -> None:
    assert spent().delay_s(999, 0.0) > 0
    assert spent().delay_s(1000, 0.0) == 0


def test_client_that_waits_is_served_at_once_for_a_while() -> None:
    pacer = spent(10.0)
    pacer.hurry(10.0)
    assert pacer.delay_s(1, 10.4) == 0
    pacer.committed(10.4)
    later = spent(10.0)
    later.hurry(10.0)
    assert later.delay_s(1, 10.6) < COMMIT_S


def test_busy_gateway_does_not_wait() -> None:
    pacer = spent(10.0)
    pacer.arrived(BUSY_PER_S - 1, 10.0)
    assert pacer.delay_s(1, 10.0) > 0
    pacer.arrived(1, 10.0)
    assert pacer.delay_s(1, 10.0) == 0


def test_flood_is_seen_and_ends() -> None:
    pacer = Pacer(COMMIT_S, 1000)
    pacer.arrived(FLOOD_PER_S - 1, 10.0)
    assert not pacer.flooded()
    pacer.arrived(1, 10.0)
    assert pacer.flooded()
    pacer.arrived(1, 11.5)
    assert not pacer.flooded()


def test_gateway_is_not_busy_for_ever() -> None:
    pacer = spent(10.0)
    pacer.arrived(BUSY_PER_S * 2, 10.0)
    pacer.arrived(1, 12.0)
    for _ in range(BURST + 1):
        pacer.committed(12.0)
    assert pacer.delay_s(1, 12.0) > 0


def test_interval_of_0_never_waits() -> None:
    pacer = Pacer(0, 1000)
    for _ in range(100):
        assert pacer.delay_s(1, 0.0) == 0
        pacer.committed(0.0)
