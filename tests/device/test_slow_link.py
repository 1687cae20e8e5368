"""The link on a network on which nothing is done by the first look, on the real MicroPython.

A connect, a name, a handshake, each packet: on loopback the first poll finds all of it done, and
what waits for it wrongly is not seen (the firmware once never connected to anything else).
"""

from __future__ import annotations

import ctypes
import json
import socket
import ssl
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_broker import PIECE_S, FakeBroker, Manner, publish
from real_port import MicroPython
from slow_path import path_to, slowed
from test_link import all_arrived, certificate

from tools.virtual.network import Network
from tools.waiting import wait_until

FAST = 4  # the firmware's clock; its times below
SLOW = Network(latency_ms=5, jitter_ms=5, piece_bytes=100)
BYTES = Network(latency_ms=0, jitter_ms=0, piece_bytes=1, rest_ms=0)
SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27


@pytest.fixture
def fake() -> Iterator[FakeBroker]:
    broker = FakeBroker([Manner()])
    yield broker
    broker.close()


@pytest.fixture(params=[SLOW, BYTES], ids=["slow", "byte by byte"])
def network(request: pytest.FixtureRequest) -> Network:
    found: Network = request.param
    return found


def go(micropython: MicroPython, port: int, fake: FakeBroker, **options: Any) -> dict[str, Any]:
    """Run the firmware's network half until all its records are acknowledged."""
    output = micropython.run("uplink_run.py", json.dumps({"port": port, "fast": FAST, **options}))
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    result["output"] = output
    fake.settle()
    assert fake.problems == []
    return result


def server(folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate(folder)[0])
    return context


@pytest.mark.parametrize("qos", [0, 1])
def test_records_arrive_over_a_network_that_takes_time(
    micropython: MicroPython, open_folder: Path, fake: FakeBroker, network: Network, qos: int
) -> None:
    with path_to(fake.port, network) as port:
        result = go(slowed(micropython, open_folder, network), port, fake, qos=qos)
    all_arrived(fake, result)
    assert fake.connections == result["connects"] == fake.disconnects == 1
    assert fake.again == 0
    assert result["gap_ms"] < 100  # ours


def test_tls_goes_over_a_network_that_takes_time(
    micropython: MicroPython, open_folder: Path, tmp_path: Path, network: Network
) -> None:
    fake = FakeBroker([Manner()], tls=server(tmp_path))
    with path_to(fake.port, network) as port:
        result = go(slowed(micropython, open_folder, network), port, fake, tls=True)
    fake.close()
    all_arrived(fake, result)
    assert fake.connections == fake.disconnects == 1, result["output"]
    assert result["gap_ms"] < 100


FAULTS = {
    "a code": Manner(refuse=5),
    "a close": Manner(close_on="connect"),
    "a close on the first batch": Manner(close_on="up"),
    "a packet from nowhere": Manner(first=b"\xf0\0"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_link_comes_back_over_a_network_that_takes_time_after(
    micropython: MicroPython, open_folder: Path, fault: str
) -> None:
    fake = FakeBroker([FAULTS[fault], Manner()])
    with path_to(fake.port, SLOW) as port:
        result = go(slowed(micropython, open_folder, SLOW), port, fake)
    fake.close()
    all_arrived(fake, result)
    assert fake.connections == 2, result["output"]


def test_refused_connect_is_told_as_that_although_it_comes_late(
    micropython: MicroPython, open_folder: Path, fake: FakeBroker
) -> None:
    fake.close()
    with path_to(fake.port, SLOW) as port:
        result = go(slowed(micropython, open_folder, SLOW), port, fake, limit_ms=2000)
    assert result["why"] == "Broken connection refused"


def drop_all(listener: socket.socket) -> Any:
    """Let the kernel drop what comes to a listener: a SYN goes out again after a second."""
    code = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # ret 0
    program = struct.pack("HL", 1, ctypes.addressof(code))
    listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)
    return code


def is_connecting(port: int) -> bool:
    """Say whether a SYN to the port waits for its answer: SYN_SENT is 02."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return any(row[2].endswith(f":{port:04X}") and row[3] == "02" for row in rows)


def test_handshake_of_a_second_in_the_kernel_is_waited_for(
    micropython: MicroPython, fake: FakeBroker
) -> None:
    kept = drop_all(fake.listener)
    run = micropython.start("uplink_run.py", json.dumps({"port": fake.port, "fast": 1}))
    wait_until(lambda: is_connecting(fake.port), 20)
    fake.listener.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
    output, _ = run.communicate(timeout=50)
    result = json.loads(output.splitlines()[-1])
    assert kept
    all_arrived(fake, result)
    assert "offline" not in output
    assert result["first_ack_ms"] > 900  # it was that slow


def test_tls_handshake_waits_instead_of_spinning(
    micropython: MicroPython, tmp_path: Path
) -> None:
    fake = FakeBroker([Manner(silent=True)], tls=server(tmp_path))
    result = go(micropython, fake.port, fake, tls=True, nap_ms=20, limit_ms=4000)
    fake.close()
    assert result["connects"] == 0
    assert result["steps"] < 2 * (4000 / FAST / 20)  # it was thousands


def test_long_message_that_comes_slowly_is_skipped(
    micropython: MicroPython, fake: FakeBroker
) -> None:
    huge = publish("tidegate/dev/down/x", b"y" * 3000)
    fast, pieces = 10, 13
    fake.manners = [Manner(first=huge, first_in=pieces)]
    result = go(micropython, fake.port, fake, fast=fast, keepalive_s=10)
    all_arrived(fake, result)
    assert pieces * PIECE_S * 1000 * fast > 5000  # the longest that a packet may stand still
    assert fake.connections == 1, result["output"]
    assert result["skipped"] == 1


@pytest.mark.parametrize(("stays", "longest_ms"), [(False, 800), (True, 3000)])
def test_goodbye_waits_until_it_was_heard_and_not_for_ever(
    micropython: MicroPython, open_folder: Path, fake: FakeBroker, stays: bool, longest_ms: int
) -> None:
    fake.manners = [Manner(stays=stays)]
    with path_to(fake.port, SLOW) as port:
        result = go(slowed(micropython, open_folder, SLOW), port, fake)
    assert fake.disconnects == 1
    assert result["left_ms"] < longest_ms
