"""A device behind a link that swallows everything. Needs root: gateway and device each get a
network namespace of their own, and this file is also the program that runs in the gateway's."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from gateway import wire
from gateway.config import ListenerConfig
from gateway.listener import Connection, Listener

OURS, THEIRS = "192.0.2.1", "192.0.2.2"
DEVICE = f"""
import socket
sock = socket.create_connection(("{OURS}", {{port}}), 10)
sock.sendall(bytes.fromhex("100d00044d51545404020000") + b"\\0\\1d")  # no keepalive
sock.settimeout(60)
sock.recv(1)
"""


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


@pytest.fixture
def networks() -> Iterator[tuple[str, str]]:
    """The names of two network namespaces with a cable between them."""
    if os.geteuid() or shutil.which("ip") is None:
        pytest.skip("needs root and iproute2 for network namespaces")
    ours, theirs = f"tidegate-a{os.getpid()}", f"tidegate-b{os.getpid()}"
    made = []
    try:
        for name in (ours, theirs):
            try:
                ip("netns", "add", name)
            except subprocess.CalledProcessError as error:
                pytest.skip(f"no network namespaces here: {error.stderr!r}")
            made.append(name)
        ip("link", "add", "va", "netns", ours, "type", "veth", "peer", "name", "vb",
           "netns", theirs)
        for name, link, address in ((ours, "va", OURS), (theirs, "vb", THEIRS)):
            ip("-n", name, "addr", "add", f"{address}/30", "dev", link)
            ip("-n", name, "link", "set", link, "up")
        yield ours, theirs
    finally:
        for name in made:
            ip("netns", "del", name)


class House:
    """Takes everybody in. full: but not what they send, as with a full outbox."""

    def __init__(self, full: bool) -> None:
        self.came, self.went, self._full = asyncio.Event(), asyncio.Event(), full

    def received(self, conn: Connection, packets: list[wire.Packet], now_s: float) -> None:
        if self._full:
            conn.held = [wire.Publish("t", b"", 0, False, False, 0)]
            conn.hold(True)
        self.came.set()

    def closed(self, conn: Connection, clean: bool) -> None:
        self.went.set()


async def go_silent(network: str, dead_peer_s: int, wait_s: float, full: bool) -> dict[str, Any]:
    """Let a device connect, cut its link, wait; return whether it was noticed, and the counts."""
    house, noticed = House(full), True
    listener = Listener(ListenerConfig(listen=f"{OURS}:0", dead_peer_s=dead_peer_s), house)
    port = await listener.open()
    sweeping = asyncio.create_task(listener.run())
    device = subprocess.Popen(["ip", "netns", "exec", network, sys.executable, "-c",
                               DEVICE.format(port=port)])
    try:
        await asyncio.wait_for(house.came.wait(), 10)
        ip("-n", network, "route", "add", "blackhole", f"{OURS}/32")  # nothing comes back
        await asyncio.wait_for(house.went.wait(), wait_s)
    except TimeoutError:
        noticed = False
    finally:
        device.kill()
        device.wait()
        sweeping.cancel()
        listener.stop_listening()
    return {"came": house.came.is_set(), "noticed": noticed, "refused": dict(listener.refused)}


def result(networks: tuple[str, str], dead_peer_s: int, wait_s: float,
           full: bool = False) -> dict[str, Any]:
    ours, theirs = networks
    done = subprocess.run(
        ["ip", "netns", "exec", ours, sys.executable, __file__, theirs, str(dead_peer_s),
         str(wait_s), "full" * full], capture_output=True, text=True, timeout=40, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["came"], done.stderr
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("full", [False, True])
def test_device_that_vanished_without_a_word_is_noticed_and_counted(
        networks: tuple[str, str], full: bool) -> None:
    found = result(networks, 3, 15, full)
    assert found["noticed"]
    assert found["refused"] == {"dead link": 1}


def test_device_that_vanished_is_not_noticed_where_nobody_asks(
        networks: tuple[str, str]) -> None:
    assert not result(networks, 0, 5)["noticed"]


if __name__ == "__main__":
    print(json.dumps(asyncio.run(go_silent(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]),
                                           bool(sys.argv[4])))))
