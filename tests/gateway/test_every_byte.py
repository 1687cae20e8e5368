"""Every byte of a connection's first exchanges: reset, closed, stalled, fragmented there.

One gateway lives through all cases of a test. After each `status` answers, the next connection
works, what was acknowledged arrives, and at QoS 2 once. Its own deadlines are shortened
(tools/quick_gateway.py); a stall has to be given up within them. By default a sample; all of it
with `pytest -m slow tests/gateway/test_every_byte.py`.
"""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from gateway import certs
from tools.fake_broker import FakeBroker
from tools.gateway_process import Gateway
from tools.played_broker import GIVEN_UP_S, PlayedBroker
from tools.played_wire import ClosedError, Fault, HitError, How, Raw
from tools.ports import HOST
from tools.raw_client import RawClient, connect, packet, publish, pubrel

QUICK = "tools.quick_gateway"
ALL: tuple[How, ...] = ("reset", "close", "stall", "fragment")


class Upstream:
    """The link upstream: a device's message is in the outbox when the gateway connects."""

    def __init__(self, folder: Path, protocol: str, carrier: str) -> None:
        scheme, settings, context = "mqtt", f'protocol = "{protocol}"\n', None
        if carrier == "tls":
            certs.make_ca(folder / "ca", "CA")
            certs.issue(folder / "ca", "server", "broker", [HOST], 30)
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(folder / "ca/server.crt", folder / "ca/server.key")
            scheme, settings = "mqtts", settings + f'ca_file = "{folder}/ca/ca.crt"\n'
        elif carrier == "ws":
            scheme = "ws"
        self.broker = PlayedBroker(v5=protocol == "5", carrier=carrier, context=context)
        self.gateway = Gateway(folder, self.broker.port, settings=settings, scheme=scheme,
                               module=QUICK)
        self.gateway.start()
        self._device = RawClient(self.gateway.port)
        self._device.open("device")
        self._number = 0

    def case(self, fault: Fault) -> bool:
        """Run one; False where all was done before the fault came."""
        self._number += 1
        payload, mid = b"case %d" % self._number, self._number % 60_000 + 1
        self._device.send(publish("t", payload, 1, mid))
        assert self._device.read() == (0x40, mid.to_bytes(2, "big"))

        def done() -> bool:
            return bool(self.broker.delivered[payload]) and not self.broker.holds() \
                and status(self.gateway)["depth"] == 0

        hit = self.broker.meet(fault, done)
        if hit:
            status(self.gateway)
            assert not self.broker.meet(None, done)
        assert self.broker.delivered[payload] == 1
        return hit

    def close(self) -> None:
        self._device.close()
        assert self.gateway.stop() == 0
        self.broker.close()


class Broker:
    """The link of `[broker]`: it has a message of QoS 1 and one of QoS 2 for the gateway."""

    def __init__(self, folder: Path, protocol: str, *, forgets: bool) -> None:
        self.upstream = FakeBroker(v5=False)
        self.broker = PlayedBroker(v5=protocol == "5")
        self.gateway = Gateway(folder, self.upstream.port, module=QUICK, settings=(
            f'[broker]\nurl = "mqtt://{HOST}:{self.broker.port}"\nprotocol = "{protocol}"\n'))
        self.gateway.start()
        self._number, self._forgets = 0, forgets

    def case(self, fault: Fault) -> bool:
        """Run one; False where all was done before the fault came."""
        self._number += 1
        once, twice = b"%d at QoS 2" % self._number, b"%d at QoS 1" % self._number
        if self._forgets:
            self.broker.forget()
        self.broker.send_later(1, twice)
        self.broker.send_later(2, once)
        hit = self.broker.meet(fault, lambda: not self.broker.owed)
        if hit:
            status(self.gateway)
            assert not self.broker.meet(None, lambda: not self.broker.owed)
        self.upstream.wait_for(once)
        self.upstream.wait_for(twice)
        return hit

    def close(self) -> None:
        came = Counter(self.upstream.payloads())
        assert {came[b"%d at QoS 2" % (n + 1)] for n in range(self._number)} == {1}
        assert self.gateway.stop() == 0
        self.broker.close()
        self.upstream.close()


class Device:
    """A device's link: it subscribes, and publishes at QoS 1 and 2."""

    def __init__(self, folder: Path) -> None:
        self.upstream = FakeBroker(v5=False)
        self.gateway = Gateway(folder, self.upstream.port, module=QUICK)
        self.gateway.start()
        self._number = 0
        self._stalled: list[Raw] = []
        self._acknowledged: list[bytes] = []
        self._once: list[bytes] = []

    def case(self, fault: Fault) -> bool:
        """Run one; False where all was done before the fault came."""
        self._number += 1
        state: set[str] = set()
        raw = self._dial(fault)
        hit = True
        try:
            self._talk(raw, state)
            hit = raw.fragmented
        except ClosedError:
            pytest.fail(f"{fault}: the gateway closed on it")
        except HitError:
            if fault.how == "stall":
                self._stalled.append(raw)
            else:
                raw.misbehave()
        status(self.gateway)
        if hit and not raw.fragmented:
            if fault.how == "stall":  # not as the same client, which would end it at once
                self._number, state = self._number + 1, set()
            try:
                self._talk(self._dial(None), state)
            except (ClosedError, HitError):
                pytest.fail(f"after {fault}: the next connection does not work")
        return hit

    def _dial(self, fault: Fault | None) -> Raw:
        return Raw(RawClient(self.gateway.port).sock, fault)

    def _talk(self, raw: Raw, state: set[str]) -> None:
        """One whole connection, or what is left of it; raises HitError, ClosedError."""
        name, reader = f"d{self._number}", Reader(raw)
        one, two = b"%d one" % self._number, b"%d two" % self._number
        raw.send(connect(name, clean=False, keepalive_s=1))
        reader.until(0x20)
        raw.send(packet(0x82, b"\0\1\0\4away\1"))
        reader.until(0x90)
        if "one" not in state:
            raw.send(publish("t", one, 1, 2))
            reader.until(0x40)
            state.add("one")
            self._acknowledged.append(one)
        if "two" not in state:
            raw.send(publish("t", two, 2, 3, dup="began" in state))
            state.add("began")
            reader.until(0x50)
            state.add("two")
            self._acknowledged.append(two)
            self._once.append(two)
        raw.send(pubrel(3))
        reader.until(0x70)
        raw.send(b"\xc0\0")
        reader.until(0xD0)
        raw.send(b"\xe0\0")
        raw.sock.close()

    def close(self) -> None:
        for raw in self._stalled:
            assert raw.given_up(GIVEN_UP_S)
        for payload in self._acknowledged:
            self.upstream.wait_for(payload)
        came = Counter(self.upstream.payloads())
        assert {came[payload] for payload in self._once} == {1}
        assert self.gateway.stop() == 0
        self.upstream.close()


class Reader:
    """Reads packets from a Raw."""

    def __init__(self, raw: Raw) -> None:
        self._raw, self._data = raw, b""

    def until(self, head: int) -> None:
        """Read until a packet with this first byte; all here are shorter than 128 bytes."""
        for _ in range(500):
            while len(self._data) > 1 and len(self._data) >= 2 + self._data[1]:
                found, self._data = self._data[0], self._data[2 + self._data[1]:]
                if found == head:
                    return
            self._data += self._raw.recv()
        raise TimeoutError(f"no packet 0x{head:02x}")


def status(gateway: Gateway) -> dict[str, object]:
    """What the gateway says of itself, which it always does."""
    said = gateway.status()
    assert said is not None
    return said


Link = Upstream | Broker | Device


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Callable[..., Link]]:
    links: list[Link] = []

    def make(kind: type[Link], *args: object, **how: object) -> Link:
        links.append(kind(tmp_path, *args, **how))  # type: ignore[arg-type]
        return links[-1]

    yield make
    for link in links:
        link.gateway.kill()


def sweep(link: Link, hows: tuple[How, ...], step: int = 1, first: int = 0) -> int:
    """Go through the offsets of both directions; returns the number of cases."""
    count = 0
    for how in hows:
        for direction in ("out",) if how == "fragment" else ("in", "out"):
            offset = first
            while link.case(Fault(how, direction, offset)):  # type: ignore[arg-type]
                offset += step
                count += 1
    link.close()
    print(f"{count} cases")
    return count


def test_sample_of_the_link_upstream(made: Callable[..., Link]) -> None:
    assert sweep(made(Upstream, "3.1.1", "tcp"), ALL, 29, 3) > 10


def test_sample_of_the_link_of_a_broker(made: Callable[..., Link]) -> None:
    assert sweep(made(Broker, "5", forgets=True), ALL, 29, 5) > 10


def test_sample_of_a_devices_link(made: Callable[..., Link]) -> None:
    assert sweep(made(Device), ALL, 17, 2) > 10


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
@pytest.mark.parametrize("how", ALL)
def test_every_byte_of_the_link_upstream(made: Callable[..., Link], protocol: str,
                                         how: How) -> None:
    assert sweep(made(Upstream, protocol, "tcp"), (how,)) > 10


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
@pytest.mark.parametrize("carrier", ["ws", "tls"])
def test_bytes_of_websocket_and_tls(made: Callable[..., Link], protocol: str,
                                    carrier: str) -> None:
    assert sweep(made(Upstream, protocol, carrier), ALL, 11) > 50


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("protocol", ["3.1.1", "5"])
@pytest.mark.parametrize("how", ALL)
@pytest.mark.parametrize("forgets", [True, False])
def test_every_byte_of_the_link_of_a_broker(made: Callable[..., Link], protocol: str, how: How,
                                            forgets: bool) -> None:
    assert sweep(made(Broker, protocol, forgets=forgets), (how,)) > 10


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("how", ALL)
def test_every_byte_of_a_devices_link(made: Callable[..., Link], how: How) -> None:
    assert sweep(made(Device), (how,)) > 10
