"""gateway/caution.py: which message a broker closes on, and that a bad link blames nobody."""

from __future__ import annotations

from gateway.batch import Entry
from gateway.caution import CALM, FRUITLESS, Caution
from gateway.flight import MAX_TRIES


def entry(number: int = 1) -> Entry:
    return Entry(number, number, 1, False, False, 0, "#", "s", "t", b"")


def cautious() -> Caution:
    caution = Caution()
    for _ in range(FRUITLESS):
        assert not caution.connected()
        assert caution.lost(True, [entry(1), entry(2)]) is None
    assert caution.connected()
    return caution


def test_message_alone_in_flight_is_blamed_after_some_tries() -> None:
    caution, bad = cautious(), entry()
    for _ in range(MAX_TRIES - 1):
        assert caution.lost(True, [bad]) is None
        assert caution.connected()
    assert caution.lost(True, [bad]) is bad
    assert not caution.connected()


def test_link_that_is_cut_blames_nobody() -> None:
    caution = Caution()
    for _ in range(20):
        assert not caution.connected()
        assert caution.lost(False, [entry()]) is None


def test_broker_that_acknowledges_is_not_suspected() -> None:
    caution = Caution()
    for _ in range(20):
        assert not caution.connected()
        caution.acknowledged(1)
        assert caution.lost(True, [entry()]) is None


def test_broker_that_closes_with_nothing_in_flight_is_not_suspected() -> None:
    caution = Caution()
    for _ in range(20):
        assert not caution.connected()
        assert caution.lost(True, []) is None


def test_caution_ends_when_all_is_well_for_a_while() -> None:
    caution = cautious()
    assert not caution.acknowledged(CALM - 1)
    assert caution.acknowledged(1)
    assert not caution.connected()
