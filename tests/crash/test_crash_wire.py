"""The tap reads what passed between gateway and upstream, in any pieces."""

from __future__ import annotations

from typing import cast

import pytest

from tools import crash_mqtt as mqtt
from tools.crash_devices import Key
from tools.crash_wire import WireLog
from tools.proxy_link import Direction, Link

ONE = ("dev", 0, 1)


class Tapped:
    """A WireLog that is fed by hand."""

    def __init__(self, piece: int = 1000) -> None:
        self.kinds: list[str] = []
        self.log = WireLog(self.kinds.append)
        self._link, self._piece = cast(Link, object()), piece

    def _pass(self, direction: Direction, data: bytes) -> None:
        for start in range(0, len(data), self._piece):
            self.log.tap(self._link, direction, data[start : start + self._piece])

    def publish(self, number: int, mid: int, *, dup: bool = False, qos: int = 2) -> None:
        payload = b"dev %d xyz" % number
        self._pass("up", mqtt.publish(mqtt.Publish("t", payload, qos, False, dup, mid)))

    def ack(self, kind: int, mid: int) -> None:
        self._pass("up" if kind == mqtt.PUBREL else "down", mqtt.ack(kind, mid))

    def connack(self, *, present: bool) -> None:
        self._pass("down", mqtt.encode(mqtt.CONNACK, 0, bytes((present, 0))))

    def exchanges(self, key: Key = ONE) -> list[tuple[bool, bool, bool]]:
        return [(e.taken_s > 0, e.released_s > 0, e.ended_s > 0)
                for e in self.log.exchanges[key]]


@pytest.mark.parametrize("piece", [1, 2, 3, 1000])
def test_exchange_is_followed_to_its_end(piece: int) -> None:
    wire = Tapped(piece)
    wire.connack(present=False)
    wire.publish(1, 5)
    wire.ack(mqtt.PUBREC, 5)
    wire.ack(mqtt.PUBREL, 5)
    assert wire.exchanges() == [(True, True, False)]
    assert wire.log.busy == 1
    wire.ack(mqtt.PUBCOMP, 5)
    assert wire.exchanges() == [(True, True, True)]
    assert wire.log.busy == 0
    assert wire.kinds == ["PUBLISH", "PUBREC", "PUBREL", "PUBCOMP"]


def test_dup_continues_an_exchange() -> None:
    wire = Tapped()
    wire.publish(1, 5)
    wire.publish(1, 5, dup=True)
    assert len(wire.exchanges()) == 1


def test_published_anew_in_a_new_session_is_a_new_exchange() -> None:
    wire = Tapped()
    wire.publish(1, 5)
    wire.connack(present=False)
    wire.publish(1, 5)
    assert len(wire.exchanges()) == 2
    assert not wire.log.complaints


def test_published_anew_after_its_pubrec_is_complained_of() -> None:
    wire = Tapped()
    wire.publish(1, 5)
    wire.ack(mqtt.PUBREC, 5)
    wire.publish(1, 5)
    assert wire.log.complaints


def test_identifier_used_again_before_its_end_is_complained_of() -> None:
    wire = Tapped()
    wire.publish(1, 5)
    wire.publish(2, 5)
    assert wire.log.complaints


def test_order_is_that_of_the_first_publish() -> None:
    wire = Tapped()
    for number, mid in ((1, 5), (2, 6), (1, 7)):
        wire.publish(number, mid, qos=1)
    assert wire.log.order["dev"] == [("dev", 0, 1), ("dev", 0, 2)]
