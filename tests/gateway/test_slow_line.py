"""Slow, lossy, late lines, as the kernel makes them: all arrives, and nothing is dropped for
slowness. Minutes: `pytest -m slow tests/gateway/test_slow_line.py`."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway import control
from tools.lifetime import Closeable
from tools.mosquitto import find_program
from tools.procs import Child
from tools.proxy_link import Fault
from tools.proxy_thread import ProxyThread
from tools.raw_client import RawClient, packet, publish
from tools.slow_line import FAR, NEAR, LineError, SlowLine, enter
from tools.waiting import wait_until

LONG, SMALL = 200_000, 12
DEVICES, BROKER, HOUSE = 1883, 1884, 1885
PROJECT = Path(__file__).resolve().parents[2]


class Site(Closeable):
    """A gateway at the near end, Mosquitto (behind a proxy that is late) at the far one, and one
    at the far end that the gateway subscribes to."""

    def __init__(self, folder: Path, line: SlowLine, late_s: float) -> None:
        self.line, self.folder = line, folder
        self._children: list[Child] = []
        for name, port in (("upstream", BROKER), ("house", HOUSE)):
            conf = folder / f"{name}.conf"
            conf.write_text(f"listener {port} 0.0.0.0\nallow_anonymous true\nuser root\n"
                            "max_queued_messages 0\npersistence false\n")
            self._start(name, line.far, [*find_program(), "-c", str(conf)])
        self._proxy = ProxyThread(BROKER, host="0.0.0.0")
        self._proxy._loop.call_soon(enter, line.far)  # before anything else there
        self._proxy.start()
        self._proxy.set_fault(Fault(latency_s=late_s / 2))
        config = folder / "tidegate.toml"
        config.write_text(f'id = "gw"\n[listener]\nlisten = "0.0.0.0:{DEVICES}"\n'
                          'allow_anonymous = true\n'
                          f'[upstream]\nurl = "mqtt://{FAR}:{self._proxy.port}"\n'
                          f'[broker]\nurl = "mqtt://{FAR}:{HOUSE}"\nfilters = ["house/#"]\n')
        self._start("gateway", line.near, [sys.executable, "-m", "gateway", "run", "-c",
                                           str(config)])

    def start(self) -> None:
        """Wait until both links stand."""
        wait_until(lambda: self.status().get("upstream") == "connected"
                   and self.status().get("broker") == "connected", 60, "connected")

    def _start(self, name: str, where: str, argv: list[str]) -> None:
        child = Child(self.line.command(where, argv), log=self.folder / f"{name}.log", cwd=PROJECT)
        child.start()
        self._children.append(child)

    def status(self) -> dict[str, object]:
        """What the gateway says of itself, {} before it listens."""
        try:
            return control.ask(self.folder / "outbox.db")
        except control.NotRunningError:
            return {}

    def client(self, where: str, address: str, port: int, name: str, **how: int) -> RawClient:
        """A client that is connected."""
        client = RawClient(port, sock=self.line.connect(where, address, port))
        client.open(name, **how)
        return client

    def close(self) -> None:
        for child in reversed(self._children):
            child.stop()
        self._proxy.stop()


@pytest.fixture
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    kbit_s, queue_s, loss, late_s = request.param
    try:
        line = SlowLine(kbit_s, queue_s=queue_s, loss_percent=loss)
    except LineError as error:
        pytest.skip(str(error))
    with line, Site(tmp_path, line, late_s) as made:
        made.start()
        yield made


class Reading:
    """Reads what comes to a subscriber, at once, and without a word from its first byte on."""

    def __init__(self, client: RawClient) -> None:
        self.count = 0
        self._client = client
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while self.count < SMALL:
            try:
                found = self._client.read(5)
            except TimeoutError:
                if not self.count and not self._client.began:
                    self._client.send(b"\xc0\0")
                continue
            if found is None:
                return
            self.count += found[0] >> 4 == 3
        self._client.send(b"\xe0\0")


def payloads(name: bytes) -> list[bytes]:
    """Long messages and small ones between them."""
    return [name + b" %d " % n + bytes(LONG if n % SMALL == 0 else 10) for n in range(2 * SMALL)]


def head(payload: bytes) -> bytes:
    return b" ".join(payload.split(b" ")[:2])


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("site", [
    (50, 1.0, 0, 0.3), (50, 5.0, 0, 0.3), (128, 1.0, 0, 0.3), (128, 1.0, 5, 0.3),
    (50, 2.0, 5, 0.3)], indirect=True, ids=str)
def test_long_messages_and_small_ones_all_arrive(site: Site) -> None:
    line = site.line
    judge = site.client(line.far, "127.0.0.1", BROKER, "judge")
    judge.send(packet(0x82, b"\0\1\0\1#\0"))
    assert judge.read() is not None
    reader = site.client(line.far, NEAR, DEVICES, "reader", keepalive_s=10)
    reader.send(packet(0x82, b"\0\1\0\3b/#\0"))
    assert reader.read(60) is not None
    reading = Reading(reader)
    began_s, wanted = time.monotonic(), Counter[bytes]()

    near = site.client(line.near, "127.0.0.1", DEVICES, "near")
    for number, payload in enumerate(payloads(b"near"), 1):
        near.send(publish("a/near", payload, 1, number))
        assert near.read() == (0x40, number.to_bytes(2, "big"))
        wanted[head(payload)] += 1
    far = site.client(line.far, NEAR, DEVICES, "far", keepalive_s=10)  # no PINGREQ of its own
    house = site.client(line.far, "127.0.0.1", HOUSE, "house")
    far.sock.settimeout(600)
    whole = b"".join(publish("b/far", payload, 1, number)
                     for number, payload in enumerate(payloads(b"far")[:SMALL], 1))
    far.send(whole)
    house.send(publish("house/t", b"house 0 " + bytes(LONG), 1, 1))
    wanted.update({b"house 0": 1, **{head(p): 1 for p in payloads(b"far")[:SMALL]}})
    for number in range(1, SMALL + 1):
        assert far.read(600) == (0x40, number.to_bytes(2, "big"))
    far.send(b"\xe0\0")

    came = Counter[bytes]()
    while came.keys() != wanted.keys():
        found = judge.read(600)
        assert found is not None
        size = 2 + int.from_bytes(found[1][:2], "big")
        if found[0] >> 4 == 3 and not found[1][2:size].endswith(b"/status"):
            came[head(found[1][size:])] += 1
    assert came == wanted
    wait_until(lambda: reading.count == SMALL, 300, "the reader, who says nothing meanwhile")
    wait_until(lambda: site.status()["depth"] == 0, 60, "nothing left")
    status = site.status()
    print(f"{time.monotonic() - began_s:.0f} s, connects {status['upstream_connects']} "
          f"{status['broker_connects']}, closed {status['closed']}")
    assert status["upstream_connects"] == 1
    assert status["broker_connects"] == 1
    assert status["closed"] == {}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("site", [(100_000, 1.0, 0, 0.0)], indirect=True, ids=str)
@pytest.mark.parametrize("busy", [False, True])
def test_cable_that_is_cut_is_noticed_as_fast_as_ever(site: Site, busy: bool) -> None:
    near = site.client(site.line.near, "127.0.0.1", DEVICES, "near")
    site.line.cut()
    began_s = time.monotonic()
    if busy:
        near.send(publish("a", bytes(LONG), 1, 1))
        assert near.read() == (0x40, b"\0\1")
    wait_until(lambda: site.status()["upstream"] != "connected", 60, "noticed")
    took_s = time.monotonic() - began_s
    print(f"{took_s:.1f} s")
    assert took_s < 13  # 9 s, and a look a second
