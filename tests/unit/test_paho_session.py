"""paho's session on bytes that no broker should send: it ends, and nothing is raised."""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator

import pytest

from gateway import wire
from gateway.config import UpstreamConfig
from gateway.errors import ProtocolError
from gateway.flight import Limits
from gateway.paho_session import Accepted, Ended, Granted, PahoSession

CONNACK = {"3.1.1": bytes.fromhex("20020000"), "5": bytes.fromhex("2003000000")}
SUBACK = {"3.1.1": bytes.fromhex("9003000102"), "5": bytes.fromhex("900400010002")}


@pytest.fixture(params=["3.1.1", "5"])
def session(request: pytest.FixtureRequest) -> Iterator[PahoSession]:
    made = PahoSession(UpstreamConfig(protocol=request.param, client_id="x"), "t")
    ours, theirs = socket.socketpair()
    made.begin(ours)
    yield made
    made.shut()
    theirs.close()


def again(session: PahoSession) -> str:
    """Begin anew on a new socket; returns the protocol."""
    session.shut()
    session.begin(socket.socketpair()[0])
    return "5" if session.v5 else "3.1.1"


def test_connack_and_suback_are_noted(session: PahoSession) -> None:
    protocol = again(session)
    assert session.out[0] == 0x10
    note = session.take(CONNACK[protocol])
    assert isinstance(note, Accepted)
    assert isinstance(note.limits, Limits)
    assert session.take(SUBACK[protocol]) == Granted([2])
    assert session.take(b"\xd0\x00") is None


def test_refusal_ends_it_and_says_why(session: PahoSession) -> None:
    again(session)
    note = session.take(bytes.fromhex("2003008700") if session.v5 else bytes.fromhex("20020005"))
    assert note == Ended("refused by the broker: Not authorized")


def test_no_packet_of_any_kind_raises_anything(session: PahoSession) -> None:
    rng = random.Random(5)
    for kind in range(16):
        for size in [0, 1, 2, 3, 4, 5, 9] * 4:
            protocol = again(session)
            if size % 2:
                session.take(CONNACK[protocol])
            body = bytes(rng.choice((0, 1, 2, 3, 0x7F, 0x80, 0x8E, 0xFF)) for _ in range(size))
            try:  # as the link does: what our own decoder refuses never comes to paho
                packets, _ = wire.decode(bytes([kind << 4, size]) + body, v5=session.v5,
                                         client=True)
            except ProtocolError:
                continue
            for packet in packets:
                if isinstance(packet, wire.Raw):
                    note = session.take(packet.data)
                    assert note is None or isinstance(note, Accepted | Granted | Ended)
