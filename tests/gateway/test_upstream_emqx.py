"""The gateway with the stand-in for EMQX 5.8 as its upstream: nothing is lost to its manners."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tools.emqx.process import Emqx
from tools.gateway_thread import GatewayThread, Make
from tools.judge import Subscriber
from tools.proxy_link import Fault
from tools.proxy_thread import ProxyThread
from tools.raw_client import RawClient, publish
from tools.waiting import wait_until

QUICK = "commit_ms = 0"
V5 = 'protocol = "5"'
SLOW = pytest.mark.slow
BOTH = pytest.mark.parametrize("protocol", [pytest.param("3.1.1", marks=SLOW), "5"])


@pytest.fixture
def emqx(tmp_path: Path) -> Iterator[Emqx]:
    with Emqx(tmp_path / "emqx") as running:
        yield running


@pytest.fixture
def judge(emqx: Emqx) -> Iterator[Subscriber]:
    with Subscriber(emqx.port, client_id="judge") as subscriber:
        yield subscriber


def send(gateway: GatewayThread, count: int, *, first: int = 0, topic: str = "t/{}") -> None:
    """Messages at QoS 1, acknowledged; topic: `{}` stands for the number, modulo 10."""
    with RawClient(gateway.port) as client:
        client.open("sender")
        for number in range(first, first + count):
            client.send(publish(topic.format(number % 10), b"%d" % number, 1, number + 1))
        for _ in range(count):
            assert client.read()


def arrived(judge: Subscriber) -> Counter[int]:
    return Counter(int(a.payload) for a in list(judge.arrivals) if a.payload.isdigit())


def wait_for_all(judge: Subscriber, count: int, timeout_s: float = 30.0) -> None:
    wait_until(lambda: set(arrived(judge)) == set(range(count)), timeout_s, f"all {count}")


@pytest.mark.parametrize("settings", [
    "", 'protocol = "5"', pytest.param('protocol = "5"\ndup_flag = false', marks=SLOW)])
def test_cut_links_lose_and_double_nothing_at_qos_2(make: Make, emqx: Emqx, judge: Subscriber,
                                                    settings: str) -> None:
    """Each cut takes the answers along: PUBRECs in the first turns, PUBCOMPs in others."""
    emqx.set(acks_unknown_dup="dup_flag" in settings)
    with ProxyThread(emqx.port) as proxy:
        gateway = make(proxy.port, outbox=QUICK, upstream=settings)
        for turn in range(12):
            gateway.wait_connected()
            gateway.wait_for("in_flight", 0)
            proxy.set_fault(Fault(latency_s=0.3, blackhole=turn % 3 == 0), "down")
            send(gateway, 60, first=60 * turn)
            wait_until(lambda t=turn: len(arrived(judge)) > 60 * t)
            proxy.cut()
            proxy.heal()
        wait_for_all(judge, 720, 60)
        gateway.wait_for("depth", 0, 30)
    gateway.wait_for("depth", 0)
    assert gateway.status()["refused"] == 0
    assert max(arrived(judge).values()) == 1
    held = emqx.stats()["sessions"]["tidegate-gw"]["held"]
    assert held == 0, "packet identifiers leak at the broker"


def test_stranger_under_an_identifier_is_released(make: Make, emqx: Emqx, judge: Subscriber,
                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    """Another client under our name left 100 identifiers held: as many as there may be."""
    from gateway import mids

    gateway = make(emqx.port, outbox=QUICK, upstream=V5)
    gateway.wait_connected()
    gateway.wait_for("depth", 0)
    first = gateway.bridge.flight.mids.free[0]  # type: ignore[union-attr]
    gateway.stop()
    monkeypatch.setattr(mids.random, "randrange", lambda _most: first - 1)
    with RawClient(emqx.port) as other:
        other.open("tidegate-gw", clean=False)
        for n in range(90):
            other.send(publish("x", b"other", 2, (first + n) % 65535 + 1))
        for _ in range(90):
            assert other.read()
    again = make(emqx.port, outbox=QUICK, upstream=V5)
    send(again, 200)
    wait_for_all(judge, 200)
    again.wait_for("depth", 0)
    assert again.status()["refused"] == 0
    assert max(arrived(judge).values()) == 1


def test_quota_that_is_used_up_sets_nothing_aside(make: Make, emqx: Emqx, judge: Subscriber,
                                                  caplog: pytest.LogCaptureFixture) -> None:
    gateway = make(emqx.port, outbox=QUICK, upstream=V5)
    gateway.wait_connected()
    emqx.set(quota_exceeded=True)
    send(gateway, 200)
    wait_until(lambda: gateway.status()["upstream_notices"])
    assert "0x97" in gateway.status()["upstream_notices"][0]
    emqx.set(quota_exceeded=False)
    wait_for_all(judge, 200)
    gateway.wait_for("depth", 0)
    assert gateway.status()["refused"] == 0
    assert max(arrived(judge).values()) == 1
    assert gateway.status()["upstream_notices"] == []
    assert caplog.text.count("refuses messages, trying again later") < 5


@SLOW
def test_quota_of_some_a_second_is_used(make: Make, emqx: Emqx, judge: Subscriber) -> None:
    gateway = make(emqx.port, outbox=QUICK, upstream=V5)
    gateway.wait_for("depth", 0)
    emqx.set(publish_quota=10.0)
    began_s = time.monotonic()
    send(gateway, 60)
    wait_for_all(judge, 60, 60)
    assert time.monotonic() - began_s < 20
    gateway.wait_for("depth", 0)
    assert gateway.status()["refused"] == 0


def test_broker_that_reads_two_a_second_gets_two_a_second(make: Make, emqx: Emqx,
                                                          judge: Subscriber) -> None:
    gateway = make(emqx.port, outbox=QUICK, upstream="ack_timeout_s = 2")
    gateway.wait_for("depth", 0)
    emqx.set(messages_rate=2.0)
    send(gateway, 12)
    wait_for_all(judge, 12, 30)
    assert gateway.status()["upstream_connects"] <= 2, "the link was thrown away while it moved"
    assert max(arrived(judge).values()) == 1


@BOTH
@pytest.mark.parametrize("action", [pytest.param("ignore", marks=SLOW), "disconnect"])
def test_own_status_may_be_forbidden(make: Make, emqx: Emqx, judge: Subscriber, protocol: str,
                                     action: str, caplog: pytest.LogCaptureFixture) -> None:
    emqx.set(deny="tidegate/gateway/#", deny_action=action)
    gateway = make(emqx.port, outbox=QUICK, upstream=f'protocol = "{protocol}"')
    for first in range(0, 200, 20):
        send(gateway, 20, first=first)
    wait_for_all(judge, 200)
    gateway.wait_for("depth", 0, 30)
    for _ in range(3):  # it is not said again at every connection
        emqx.order("cut")
        send(gateway, 1, first=0)
        gateway.wait_for("depth", 0, 20)
    assert gateway.status()["refused"] == 0
    silent = (protocol, action) == ("3.1.1", "ignore")  # it looks taken
    assert caplog.text.count("the gateway's own status") == (0 if silent else 1)
    assert len(gateway.status()["upstream_notices"]) == (0 if silent else 1)


@BOTH
@SLOW
def test_topic_that_hangs_up_is_set_aside_and_the_rest_arrives(
        make: Make, emqx: Emqx, judge: Subscriber, protocol: str) -> None:
    emqx.set(deny="t/forbidden", deny_action="disconnect")
    gateway = make(emqx.port, outbox=QUICK, upstream=f'protocol = "{protocol}"')
    gateway.wait_connected()
    send(gateway, 50)
    send(gateway, 2, first=900, topic="t/forbidden")
    send(gateway, 50, first=50)
    wait_for_all(judge, 100)
    gateway.wait_for("refused", 2, 40)
    gateway.wait_for("depth", 2)
    assert max(arrived(judge).values()) == 1


@BOTH
def test_inflight_above_what_the_broker_holds_shrinks(
        make: Make, emqx: Emqx, judge: Subscriber, protocol: str,
        caplog: pytest.LogCaptureFixture) -> None:
    emqx.set(max_awaiting_rel=10, max_inflight=1000)
    gateway = make(emqx.port, outbox=QUICK,
                   upstream=f'protocol = "{protocol}"\ninflight = 200')
    gateway.wait_connected()
    send(gateway, 1000)
    wait_for_all(judge, 1000, 60)
    gateway.wait_for("depth", 0)
    assert gateway.status()["refused"] == 0
    assert max(arrived(judge).values()) == 1
    assert caplog.text.count("the window is so small now") == 1
    assert "in flight" in gateway.status()["upstream_notices"][0]


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("policy", ["resend", pytest.param("drop", marks=SLOW)])
def test_lost_session_loses_and_doubles_what_its_setting_says(
        make: Make, emqx: Emqx, judge: Subscriber, policy: str, late: bool) -> None:
    """late: it delivers at PUBREL, as Mosquitto, aedes and amqtt do."""
    emqx.set(deliver_at_pubrel=late)
    gateway = make(emqx.port, outbox=QUICK,
                   upstream=f'{V5}\nafter_lost_session = "{policy}"')
    gateway.wait_connected()
    total = 0
    for _ in range(40):
        send(gateway, 50, first=total)
        total += 50
        emqx.order("forget", client="tidegate-gw")
        gateway.wait_connected()
        if gateway.status()["after_lost_session"] and total >= 400:
            break
    gateway.wait_for("depth", 0, 30)
    send(gateway, 1, first=total)  # behind all others
    total += 1
    wait_until(lambda: arrived(judge)[total - 1])
    found, status = arrived(judge), gateway.status()
    counted = sum(status["after_lost_session"].values())
    assert set(status["after_lost_session"]) <= {"resent" if policy == "resend" else "dropped"}
    lost = set(range(total)) - set(found)
    if policy == "resend":
        assert not lost
    else:
        assert len(lost) <= counted
        assert status["delivered"] + counted >= total
    if not late:
        assert not lost
    assert status["refused"] == 0


@SLOW
def test_kick_blames_nobody(make: Make, emqx: Emqx, judge: Subscriber) -> None:
    """DISCONNECT 0x98 with messages in flight, again and again."""
    gateway = make(emqx.port, outbox=QUICK, upstream=V5)
    gateway.wait_connected()
    for turn in range(8):
        send(gateway, 40, first=40 * turn)
        emqx.order("kick", client="tidegate-gw")
    wait_for_all(judge, 320)
    gateway.wait_for("depth", 0, 30)
    assert gateway.status()["refused"] == 0
