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

    def __init__(self, piece: int = 1000, *, v5: bool = False) -> None:
        self.kinds: list[str] = []
        self.log = WireLog(self.kinds.append, v5=v5)
        self._v5 = v5
        self._link, self._piece = cast(Link, object()), piece

    def _pass(self, direction: Direction, data: bytes) -> None:
        for start in range(0, len(data), self._piece):
            self.log.tap(self._link, direction, data[start : start + self._piece])

    def publish(self, number: int, mid: int, *, dup: bool = False, qos: int = 2) -> None:
        payload = (b"\0" if self._v5 else b"") + b"dev %d xyz" % number
        self._pass("up", mqtt.publish(mqtt.Publish("t", payload, qos, False, dup, mid)))

    def ack(self, kind: int, mid: int, reason: int = 0) -> None:
        data = mqtt.ack(kind, mid)
        if reason:
            data = data[:1] + b"\3" + data[2:] + bytes([reason])
        self._pass("up" if kind == mqtt.PUBREL else "down", data)

    def cut(self) -> None:
        self.log.forget(self._link)

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


def ends(wire: Tapped, key: Key = ONE) -> list[tuple[bool, int]]:
    """Of each exchange: whether the upstream lost it, and the reason it was refused for."""
    return [(e.lost_s > 0, e.refused) for e in wire.log.exchanges[key]]


def test_open_exchange_is_lost_with_its_session() -> None:
    wire = Tapped()
    wire.publish(1, 5)
    wire.ack(mqtt.PUBREC, 5)
    wire.publish(2, 6)
    wire.connack(present=True)
    assert ends(wire) == [(False, 0)]
    wire.connack(present=False)
    assert ends(wire) == ends(wire, ("dev", 0, 2)) == [(True, 0)]
    wire.ack(mqtt.PUBREL, 5)
    assert wire.exchanges() == [(True, False, False)], "nobody asks for its PUBREL now"


@pytest.mark.parametrize(("kind", "qos"), [(mqtt.PUBCOMP, 2), (mqtt.PUBACK, 1)])
def test_exchange_that_ended_with_its_connection_may_be_lost_with_the_session(
        kind: int, qos: int) -> None:
    wire = Tapped()
    wire.publish(1, 5, qos=qos)
    wire.ack(kind, 5)
    wire.cut()
    wire.connack(present=False)
    assert ends(wire) == [(True, 0)]


def test_exchange_that_ended_long_before_its_connection_is_not_lost(
        monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [100.0]
    monkeypatch.setattr("tools.crash_wire.time.monotonic", lambda: now_s[0])
    wire = Tapped()
    wire.publish(1, 5)
    wire.ack(mqtt.PUBCOMP, 5)
    now_s[0] += 10
    wire.cut()
    wire.connack(present=False)
    assert ends(wire) == [(False, 0)]


@pytest.mark.parametrize("killed", [False, True])
def test_exchange_that_ended_just_before_a_kill_may_be_lost_however_late_its_connection_ends(
        killed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seed 20261128 at MQTT 5: a stalled proxy told of the end seconds after the kill."""
    now_s = [100.0]
    monkeypatch.setattr("tools.crash_wire.time.monotonic", lambda: now_s[0])
    wire = Tapped()
    wire.publish(1, 5)
    wire.ack(mqtt.PUBCOMP, 5)
    now_s[0] += 1
    if killed:
        wire.log.gateway_dies()
    now_s[0] += 10
    wire.cut()
    wire.connack(present=False)
    assert ends(wire) == [(killed, 0)]


@pytest.mark.parametrize("went_on", [False, True])
def test_exchange_that_ended_is_not_lost_later_once_the_gateway_went_on_in_its_session(
        went_on: bool) -> None:
    """Seed 20261129: killed behind the PUBCOMP, resumed and cut at once, then the session lost."""
    wire = Tapped()
    wire.publish(1, 5)
    wire.ack(mqtt.PUBCOMP, 5)
    wire.cut()
    wire.connack(present=True)
    if went_on:
        wire.publish(2, 6)
    wire.cut()
    wire.connack(present=False)
    assert ends(wire) == [(not went_on, 0)]


def test_pubrel_after_its_pubcomp_goes_on_with_the_exchange() -> None:
    wire = Tapped()
    wire.publish(1, 5)
    wire.ack(mqtt.PUBREC, 5)
    wire.ack(mqtt.PUBREL, 5)
    wire.ack(mqtt.PUBCOMP, 5)
    wire.cut()
    wire.connack(present=True)
    wire.ack(mqtt.PUBREL, 5)
    assert wire.log.busy == 1
    wire.ack(mqtt.PUBCOMP, 5)
    assert wire.exchanges() == [(True, True, True)]
    assert wire.log.busy == 0


def test_every_pubrec_of_a_message_is_kept() -> None:
    wire = Tapped()
    wire.publish(1, 5)
    wire.ack(mqtt.PUBREC, 5)
    wire.publish(1, 5, dup=True)
    wire.ack(mqtt.PUBREC, 5)
    [exchange] = wire.log.exchanges[ONE]
    assert len(exchange.again_s) == 2
    assert exchange.heard(exchange.again_s[1], exchange.again_s[1])


def test_in_use_says_of_a_message_sent_before_that_it_is_there() -> None:
    wire = Tapped(v5=True)
    wire.publish(1, 5)
    wire.publish(1, 5, dup=True)
    wire.ack(mqtt.PUBREC, 5, 0x91)
    assert (wire.exchanges(), ends(wire)) == ([(True, False, False)], [(False, 0)])


@pytest.mark.parametrize("reason", [0x91, 0x97])
def test_refused_exchange_ends_and_its_identifier_is_free(reason: int) -> None:
    wire = Tapped(v5=True)
    wire.publish(1, 5)
    wire.ack(mqtt.PUBREC, 5, reason)
    assert (wire.exchanges(), ends(wire)) == ([(False, False, False)], [(False, reason)])
    assert wire.log.busy == 0
    wire.publish(2, 5)
    wire.publish(1, 6)
    assert len(wire.exchanges()) == 2
    assert not wire.log.complaints


def test_pubcomp_that_finds_nothing_ends_an_exchange() -> None:
    wire = Tapped(v5=True)
    wire.publish(1, 5)
    wire.ack(mqtt.PUBREC, 5)
    wire.ack(mqtt.PUBREL, 5)
    wire.ack(mqtt.PUBCOMP, 5, 0x92)
    assert wire.exchanges() == [(True, True, True)]


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
