"""The virtual board's network takes time: nothing on it is done by the first look."""

from __future__ import annotations

import hashlib
import random
import socket
from collections.abc import Callable, Iterator

import pytest

from tools.virtual import VirtualBoard, network
from tools.virtual.network import AT_ONCE, Network

Make = Callable[..., VirtualBoard]
WIFI = {"wifi": {"ssid": "lab", "password": "secret"}}
SLOW = Network(latency_ms=60, jitter_ms=20, piece_bytes=100)

START = """
import network, select, socket, time
w = network.WLAN(network.STA_IF)
w.active(True)
w.connect("lab", "secret")
while not w.isconnected():
    time.sleep_ms(2)
address = socket.getaddrinfo("127.0.0.1", {port})[0][-1]
began = time.ticks_ms()
s = socket.socket()
p = select.poll()
def look(mask, ms=0):
    p.register(s, mask)
    return [event for _, event in p.poll(ms)]
def open_now():
    s.setblocking(False)
    try:
        s.connect(address)
        print("done at once")
    except OSError as error:
        print("connect", error.args[0])
"""


@pytest.fixture
def server() -> Iterator[socket.socket]:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(10)
    yield listener
    listener.close()


def run(make: Make, server: socket.socket, script: str, net: Network = SLOW) -> VirtualBoard:
    start = START.format(port=server.getsockname()[1])
    return make(start + script, config=WIFI, network=net)


def test_connect_is_not_done_by_the_first_look(make: Make, server: socket.socket) -> None:
    board = run(make, server, """
open_now()
print("first", look(select.POLLIN | select.POLLOUT | select.POLLHUP))
print("waits in vain", look(select.POLLIN, 300))
print("then", look(select.POLLOUT, 3000), time.ticks_diff(time.ticks_ms(), began) >= 120)
""")
    board.wait(r"^connect 115$")
    board.wait(r"^first \[\]$")
    board.wait(r"^waits in vain \[\]$")
    board.wait(r"^then \[4\] True$")


def test_refused_connect_is_told_late_and_hup_only_to_who_asked(
    make: Make, server: socket.socket
) -> None:
    port = server.getsockname()[1]
    server.close()
    board = make(START.format(port=port) + """
open_now()
print("first", look(select.POLLOUT))
print("then", look(select.POLLOUT, 3000), look(select.POLLOUT | select.POLLHUP))
try:
    s.write(b"x")
except OSError as error:
    print("write", error.args[0])
""", config=WIFI, network=SLOW)
    board.wait(r"^first \[\]$")
    board.wait(r"^then \[4\] \[20\]$")
    board.wait(r"^write 111$")


def test_bytes_come_in_pieces_and_all_of_them(make: Make, server: socket.socket) -> None:
    board = run(make, server, """
import hashlib
s.connect(address)
print("waited", time.ticks_diff(time.ticks_ms(), began) >= 120)
s.setblocking(False)
print("sent", s.write(b"x" * 3000) < 3000)
s.setblocking(True)
s.write(b"\\n")
seen, parts = hashlib.sha256(), 0
left, buf = 20000, bytearray(512)
while left:
    got = s.readinto(buf)
    seen.update(buf[:got])
    left, parts = left - got, parts + 1
print("got", parts > 100, seen.digest().hex())
""")
    data = random.Random(1).randbytes(20000)
    connection, _ = server.accept()
    with connection:
        first = b""
        while not first.endswith(b"\n"):
            first += connection.recv(5000)
        connection.sendall(data)
        board.wait(r"^waited True$")
        board.wait(r"^sent True$")
        board.wait(f"^got True {hashlib.sha256(data).hexdigest()}$")
    assert set(first) == {ord("x"), ord("\n")}


def test_name_takes_its_time_and_an_address_none(make: Make, server: socket.socket) -> None:
    board = run(make, server, """
print("address", time.ticks_diff(time.ticks_ms(), began) < 100)
began = time.ticks_ms()
socket.getaddrinfo("localhost", 1)
print("name", time.ticks_diff(time.ticks_ms(), began) >= 300)
print("ready")
""", Network(names_ms=300))
    board.wait(r"^address True$")
    board.wait(r"^name True$")
    board.wait(r"^ready$")
    board.air.names_fail = True
    board.type_in(b"socket.getaddrinfo('localhost', 1)\r")
    board.wait("OSError: -202")


def test_power_cut_takes_what_was_on_its_way(make: Make, server: socket.socket) -> None:
    board = run(make, server, """
s.connect(address)
print("sent", s.write(b"x"))
""", Network(latency_ms=500))
    connection, _ = server.accept()
    with connection:
        connection.settimeout(10)
        board.wait("^sent 1$")
        board.power_cut()
        board.power_on()
        again, _ = server.accept()
        again.close()
        connection.setblocking(False)
        with pytest.raises(BlockingIOError):
            connection.recv(1)


def test_connect_that_was_given_up_reaches_no_server(make: Make, server: socket.socket) -> None:
    board = run(make, server, """
open_now()
s.close()
print("closed")
s = socket.socket()
s.connect(address)
s.write(b"second")
""", Network(latency_ms=200))
    connection, _ = server.accept()
    with connection:
        connection.settimeout(10)
        assert connection.recv(1) in b"second"
    board.wait("^closed$")


def test_network_without_latency_is_there_too(make: Make, server: socket.socket) -> None:
    board = run(make, server, """
s.connect(address)
print("sent", s.write(b"x" * 3000))
""", AT_ONCE)
    board.wait("^sent 3000$")


def test_environment_makes_it_worse(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(network.ENVIRONMENT, "latency_ms=150 jitter_ms=100")
    assert network.default() == Network(latency_ms=150, jitter_ms=100)
    monkeypatch.setenv(network.ENVIRONMENT, "latency=150")
    with pytest.raises(ValueError, match="want latency_ms, jitter_ms"):
        network.default()
