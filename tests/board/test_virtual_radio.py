"""The virtual board's radio breaks connections as radio does: half open, not closed."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable, Iterator

import pytest

from tools.virtual import VirtualBoard

Make = Callable[..., VirtualBoard]

JOIN = """
import network, socket, time
w = network.WLAN(network.STA_IF)
w.active(True)
w.connect({ssid!r}, {key!r})
while w.status() == network.STAT_CONNECTING:
    time.sleep_ms(2)
print("status", w.status(), w.isconnected())
"""
TALK = (
    JOIN
    + """
s = socket.socket()
s.connect(socket.getaddrinfo("127.0.0.1", {port})[0][-1])
s.send(b"hello\\n")
print("sent")
while True:
    line = s.readline()
    print("got", line)
    if not line:
        break
    s.send(b"echo " + line)
"""
)
WIFI = {"wifi": {"ssid": "lab", "password": "secret"}}


class Server:
    """A server on loopback with one connection at a time."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self.listener.getsockname()[1])
        self.listener.settimeout(10)

    def accept(self) -> socket.socket:
        connection, _ = self.listener.accept()
        connection.settimeout(10)
        return connection


@pytest.fixture
def server() -> Iterator[Server]:
    served = Server()
    yield served
    served.listener.close()


def talk(server: Server) -> str:
    return TALK.format(ssid="lab", key="secret", port=server.port)


def sending_a(make: Make, server: Server) -> VirtualBoard:
    """Give a board at its prompt with a connection `s` to the server, on which it sent b'a'."""
    board = make(JOIN.format(ssid="lab", key="secret"), config=WIFI)
    board.wait("^status 1010 True$")
    board.type_in(
        f"s = socket.socket(); s.connect(socket.getaddrinfo('127.0.0.1', {server.port})"
        "[0][-1]); s.send(b'a')\r".encode()
    )
    return board


def read_line(connection: socket.socket) -> bytes:
    """Read a line, in however many pieces it comes."""
    line = b""
    while not line.endswith(b"\n"):
        piece = connection.recv(1)
        if not piece:
            break
        line += piece
    return line


def is_silent(connection: socket.socket, for_s: float = 0.15) -> bool:
    return not select.select([connection], [], [], for_s)[0]


@pytest.mark.parametrize(
    ("ssid", "key", "status"),
    [("lab", "secret", "1010 True"), ("lab", "wrong", "202 False"), ("other", "", "201 False")],
)
def test_station_says_why_it_does_not_join(make: Make, ssid: str, key: str, status: str) -> None:
    board = make(JOIN.format(ssid=ssid, key=key), config=WIFI)
    board.wait(f"^status {status}$")


def test_bytes_go_both_ways(make: Make, server: Server) -> None:
    board = make(talk(server), config=WIFI)
    with server.accept() as connection:
        assert read_line(connection) == b"hello\n"
        connection.sendall(b"one\n")
        assert read_line(connection) == b"echo one\n"
    board.wait("^got b''$")


def test_lost_access_point_freezes_a_connection_until_it_is_back(
    make: Make, server: Server
) -> None:
    board = make(talk(server), config=WIFI)
    with server.accept() as connection:
        assert read_line(connection) == b"hello\n"
        board.wifi(False)
        connection.sendall(b"one\n")
        assert is_silent(connection)
        assert not any("got" in line for line in board.console.lines)
        board.wifi(True)
        assert read_line(connection) == b"echo one\n"


def test_lost_access_point_is_noticed_and_names_do_not_resolve(make: Make, server: Server) -> None:
    board = make(JOIN.format(ssid="lab", key="secret"), config=WIFI)
    board.wait("^status 1010 True$")
    board.wifi(False)
    board.type_in(b"w.isconnected(), w.status()\r")
    board.wait(r"^\(False, 200\)$")
    board.type_in(f"socket.getaddrinfo('127.0.0.1', {server.port})\r".encode())
    board.wait("OSError: -202")


def test_silent_network_is_not_noticed_by_the_station(make: Make, server: Server) -> None:
    board = sending_a(make, server)
    with server.accept() as connection:
        assert connection.recv(10) == b"a"
        board.network_silent(True)
        board.type_in(b"w.isconnected(), s.send(b'b')\r")
        board.wait(r"^\(True, 1\)$")
        assert is_silent(connection)
        board.network_silent(False)
        assert connection.recv(10) == b"b"


def test_power_cut_leaves_the_far_end_half_open(make: Make, server: Server) -> None:
    board = make(talk(server), config=WIFI)
    with server.accept() as connection:
        assert read_line(connection) == b"hello\n"
        board.power_cut()
        assert is_silent(connection), "a board without power cannot say goodbye"
        connection.sendall(b"anybody?\n")
        assert is_silent(connection)
        board.power_on()
        with server.accept() as again:
            assert read_line(again) == b"hello\n"
            with pytest.raises(ConnectionResetError):
                connection.recv(100)


def test_soft_reset_closes_in_order(make: Make, server: Server) -> None:
    board = sending_a(make, server)
    with server.accept() as connection:
        assert connection.recv(10) == b"a"
        board.type_in(b"\x04")
        assert connection.recv(10) == b""


def test_nobody_listening_is_an_error_on_the_board(make: Make, server: Server) -> None:
    server.listener.close()
    board = make(talk(server), config=WIFI)
    board.wait("Error|got b''")
