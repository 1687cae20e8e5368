"""Plain MQTT clients at the gateway: Mosquitto's own, and bare bytes where those cannot."""

from __future__ import annotations

import os
import subprocess
import threading

import pytest

from gateway.local import QUEUE_BYTES, WINDOW_BYTES
from tools.gateway_thread import GatewayThread, Make
from tools.judge import Subscriber
from tools.lifetime import Startable
from tools.mosquitto import Mosquitto, client_command
from tools.ports import free_port
from tools.procs import die_with_us
from tools.raw_client import RawClient, packet, publish, text
from tools.waiting import wait_until


def pub(port: int, *args: str) -> None:
    subprocess.run(client_command("mosquitto_pub", port, *args), check=True, timeout=10)


class Sub(Startable):
    """mosquitto_sub on a terminal of its own, so that it does not keep its lines back."""

    def __init__(self, port: int, *args: str) -> None:
        self._argv = die_with_us(client_command("mosquitto_sub", port, "-d", "-F", "%t|%p|%q|%r",
                                                *args))
        self._text = b""

    def said(self) -> list[str]:
        """The messages, and nothing of what -d adds."""
        return [line for line in self._text.decode().splitlines() if "|" in line]

    def _read(self) -> None:
        try:
            while data := os.read(self._master, 4096):
                self._text += data
        except OSError:  # the terminal's other end is gone
            pass

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def start(self) -> None:
        self._master, slave = os.openpty()
        self._process = subprocess.Popen(self._argv, stdin=subprocess.DEVNULL, stdout=slave,
                                         stderr=slave)
        os.close(slave)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        wait_until(lambda: b"Subscribed" in self._text, 10, "SUBACK")

    def stop(self) -> None:
        self.kill()
        self._reader.join(5.0)
        os.close(self._master)


@pytest.mark.parametrize(("qos", "expected"), [(0, 2), (1, 2), (2, 2)])
def test_mosquitto_pub_arrives_upstream_at_the_qos_of_its_route(
        gateway: GatewayThread, judge: Subscriber, qos: int, expected: int) -> None:
    pub(gateway.port, "-q", str(qos), "-t", f"plain/{qos}", "-m", f"at {qos}")
    assert judge.wait_for_message(f"plain/{qos}", b"at %d" % qos).qos == expected


@pytest.mark.parametrize(("qos", "upgrade", "expected"), [(0, 0, 0), (0, 1, 1), (1, 0, 1)])
def test_route_says_the_least_qos(make: Make, upstream: Mosquitto, judge: Subscriber, qos: int,
                                  upgrade: int, expected: int) -> None:
    gateway = make(upstream.port, routes=f'[[route]]\nto = "r/{{topic}}"\nupgrade = {upgrade}')
    gateway.wait_connected()
    pub(gateway.port, "-q", str(qos), "-t", f"t{qos}{upgrade}", "-m", "x")
    assert judge.wait_for_message(f"r/t{qos}{upgrade}", b"x").qos == expected


def test_mosquitto_sub_sees_local_traffic_through_wildcards(gateway: GatewayThread) -> None:
    with Sub(gateway.port, "-q", "1", "-t", "house/+/temp", "-t", "other/#") as child:
        for topic, qos in (("house/a/temp", "0"), ("house/a/hum", "1"), ("other/x/y", "1")):
            pub(gateway.port, "-q", qos, "-t", topic, "-m", "v")
        wait_until(lambda: len(child.said()) == 2)
        assert child.said() == ["house/a/temp|v|0|0", "other/x/y|v|1|0"]


def test_retained_message_is_given_to_who_comes_later(gateway: GatewayThread, judge: Subscriber,
                                                      upstream: Mosquitto) -> None:
    pub(gateway.port, "-r", "-q", "1", "-t", "kept/a", "-m", "v1")
    pub(gateway.port, "-r", "-q", "1", "-t", "kept/b", "-m", "v2")
    pub(gateway.port, "-r", "-q", "1", "-t", "kept/b", "-n")
    with Sub(gateway.port, "-q", "1", "-t", "kept/#") as child:
        pub(gateway.port, "-q", "1", "-t", "kept/end", "-m", "end")
        wait_until(lambda: "kept/end|end|1|0" in child.said())
        assert child.said() == ["kept/a|v1|1|1", "kept/end|end|1|0"]
    judge.wait_for_message("kept/end", b"end")
    with Subscriber(upstream.port, ["kept/#"], client_id="later") as later:
        assert later.wait_for_message("kept/a", b"v1").retain


def test_persistent_session_keeps_messages_while_its_client_is_away(
        gateway: GatewayThread) -> None:
    subscribe = packet(0x82, b"\x00\x07" + text("q/#") + b"\x01")
    with RawClient(gateway.port) as client:
        assert client.open("sleeper", clean=False) == 0
        client.send(subscribe)
        assert client.read() == (0x90, b"\x00\x07\x01")
    gateway.wait_for("connected_devices", 0)
    pub(gateway.port, "-q", "1", "-t", "q/1", "-m", "one")
    pub(gateway.port, "-q", "0", "-t", "q/0", "-m", "not kept")
    pub(gateway.port, "-q", "1", "-t", "q/2", "-m", "two")
    with RawClient(gateway.port) as client:
        assert client.open("sleeper", clean=False) == 1
        got = [client.read(), client.read()]
        assert [body[2:5] for _, body in got if body] == [b"q/1", b"q/2"]  # type: ignore[misc]
    with RawClient(gateway.port) as client:
        assert client.open("sleeper", clean=True) == 0


LOCAL = '[[route]]\nfilter = "#"\nforward = false\n'
BIG = 200_000


def subscribed(client: RawClient, qos: int) -> None:
    client.send(packet(0x82, b"\0\1" + text("cam/#") + bytes([qos])))
    assert client.read() == (0x90, b"\0\1" + bytes([qos]))


def publish_big(port: int, count: int, *, retain: bool) -> None:
    with RawClient(port) as client:
        client.open("camera")
        for mid in range(1, count + 1):
            client.send(publish(f"cam/{mid:03}", bytes(BIG), 1, mid, retain=retain))
            assert client.read() == (0x40, mid.to_bytes(2, "big"))


def take_big(client: RawClient, count: int) -> list[bytes]:
    """Read messages, acknowledge those of QoS 1; return the numbers in their topics."""
    numbers = []
    for _ in range(count):
        found = client.read()
        assert found is not None, f"closed after {len(numbers)}"
        numbers.append(found[1][6:9])
        if found[0] & 2:
            client.send(packet(0x40, found[1][9:11]))
    return numbers


@pytest.mark.parametrize("qos", [0, 1])
def test_all_that_is_retained_comes_however_much_it_is(make: Make, qos: int) -> None:
    gateway = make(free_port(), outbox="commit_ms = 0", routes=LOCAL)
    publish_big(gateway.port, 60, retain=True)
    with RawClient(gateway.port) as client:
        client.open("dashboard")
        subscribed(client, qos)
        assert sorted(take_big(client, 60)) == [b"%03d" % n for n in range(1, 61)]
        client.send(b"\xc0\x00")
        assert client.read() == (0xD0, b"")


def test_who_comes_back_gets_what_was_kept_and_is_not_cut(make: Make) -> None:
    gateway = make(free_port(), outbox="commit_ms = 0", routes=LOCAL)
    with RawClient(gateway.port) as client:
        client.open("sleeper", clean=False)
        subscribed(client, 1)
        publish_big(gateway.port, 20, retain=False)
        assert client.read() is not None  # and acknowledges none
    gateway.wait_for("connected_devices", 0)
    publish_big(gateway.port, 30, retain=False)
    with RawClient(gateway.port) as client:
        assert client.open("sleeper", clean=False) == 1
        kept = QUEUE_BYTES // BIG + WINDOW_BYTES // BIG + 1
        assert len(take_big(client, kept)) == kept
        client.send(b"\xc0\x00")
        assert client.read() == (0xD0, b"")


def test_unacknowledged_message_comes_again_with_dup(gateway: GatewayThread) -> None:
    with RawClient(gateway.port) as client:
        client.open("slow", clean=False)
        client.send(packet(0x82, b"\x00\x01" + text("d") + b"\x01"))
        client.read()
        pub(gateway.port, "-q", "1", "-t", "d", "-m", "x")
        first = client.read()
        assert first is not None
        assert first[0] == 0x32
    with RawClient(gateway.port) as client:
        client.open("slow", clean=False)
        assert client.read() == (0x3A, first[1])


def test_will_of_a_killed_client_is_delivered_here_and_upstream(
        gateway: GatewayThread, judge: Subscriber) -> None:
    will = ["--will-topic", "will/t", "--will-payload", "gone", "--will-qos", "1", "--will-retain"]
    with Sub(gateway.port, "-t", "will/t") as child:
        with Sub(gateway.port, "-t", "nothing", *will) as doomed:
            doomed.kill()
        wait_until(lambda: child.said() == ["will/t|gone|0|0"])
    judge.wait_for_message("will/t", b"gone")


def test_will_is_not_fired_on_disconnect(gateway: GatewayThread, judge: Subscriber) -> None:
    with RawClient(gateway.port) as client:
        client.open("polite", will=("will/polite", b"never", 1, False))
        client.send(b"\xe0\x00")
        assert client.closed()
    pub(gateway.port, "-q", "1", "-t", "after", "-m", "x")
    judge.wait_for_message("after", b"x")
    assert not [a for a in judge.arrivals if a.topic == "will/polite"]


def test_qos_2_message_sent_twice_arrives_once(gateway: GatewayThread, judge: Subscriber) -> None:
    with RawClient(gateway.port) as client:
        client.open("two", clean=False)
        client.send(publish("q2/in", b"once", 2, 5))
        assert client.read() == (0x50, b"\x00\x05")
    with RawClient(gateway.port) as client:  # the PUBREC may have been lost: DUP
        assert client.open("two", clean=False) == 1
        client.send(publish("q2/in", b"once", 2, 5, dup=True))
        assert client.read() == (0x50, b"\x00\x05")
        client.send(packet(0x62, b"\x00\x05"))
        assert client.read() == (0x70, b"\x00\x05")
        client.send(publish("q2/in", b"twice in one read", 2, 6) * 2)
        assert client.read() == (0x50, b"\x00\x06")
        client.send(publish("q2/in", b"next", 2, 5))
        client.read()
        judge.wait_for_message("q2/in", b"next")
    assert [a.payload for a in judge.arrivals if a.topic == "q2/in"] == [
        b"once", b"twice in one read", b"next"]


def test_equal_messages_in_one_read_are_all_acknowledged(gateway: GatewayThread,
                                                         judge: Subscriber) -> None:
    with RawClient(gateway.port) as client:
        client.open("equal")
        client.send(publish("e", b"x") + publish("e", b"1", 1, 1) + publish("e", b"x")
                    + publish("e", b"2", 1, 2) + publish("e", b"x"))
        assert [client.read(), client.read()] == [(0x40, b"\x00\x01"), (0x40, b"\x00\x02")]
    wait_until(lambda: [a.payload for a in judge.arrivals if a.topic == "e"] == [
        b"x", b"1", b"x", b"2", b"x"])


def test_gateway_says_online_and_offline(make: Make, upstream: Mosquitto,
                                         judge: Subscriber) -> None:
    gateway = make(upstream.port, name="presence")
    judge.wait_for_message(gateway.status_topic, b"online")
    gateway.stop()
    judge.wait_for_message(gateway.status_topic, b"offline")
    with Subscriber(upstream.port, [gateway.status_topic], client_id="late") as late:
        assert late.wait_for_message(gateway.status_topic, b"offline").retain
