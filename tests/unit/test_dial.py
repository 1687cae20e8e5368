"""gateway/dial.py: a try that hangs holds up nothing, and what comes too late is closed."""

from __future__ import annotations

import asyncio
import gc
import socket
import threading

import pytest

from gateway import dial as dialing
from gateway.dial import dial
from gateway.errors import UnreachableError


def test_what_goes_wrong_in_the_thread_is_an_error_of_the_connection() -> None:
    def fail() -> None:
        raise IndexError("of a parser")

    with pytest.raises(UnreachableError, match="handshake failed: IndexError"):
        asyncio.run(dial(fail, "x"))


def test_socket_of_a_handshake_that_failed_is_closed_at_once() -> None:
    ours, theirs = socket.socketpair()
    left = [ours]

    def shake() -> None:
        sock = left.pop()
        try:
            sock.settimeout(0.01)
            sock.recv(1)
        except TimeoutError as error:
            raise ConnectionError("no answer") from error

    async def fail() -> None:
        with pytest.raises(ConnectionError):
            await dial(shake, "x")

    del ours
    gc.disable()
    try:
        asyncio.run(fail())
        theirs.settimeout(10)
        assert theirs.recv(1) == b""
    finally:
        gc.enable()


def test_hanging_try_is_given_up_and_its_late_socket_closed(
        monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialing, "DIAL_S", 0.05)
    go_on, ours = threading.Event(), socket.socket()

    def hang() -> socket.socket:
        assert go_on.wait(10)
        return ours

    async def try_it() -> None:
        with pytest.raises(UnreachableError, match="no connection within"):
            await dial(hang, "x")
        go_on.set()
        async with asyncio.timeout(10):
            while ours.fileno() >= 0:
                await asyncio.sleep(0.01)

    asyncio.run(try_it())


def test_loop_ends_at_once_while_a_try_hangs_and_its_socket_is_closed() -> None:
    go_on, ours, threads = threading.Event(), socket.socket(), []

    def hang() -> socket.socket:
        threads.append(threading.current_thread())
        assert go_on.wait(10)
        return ours

    async def leave() -> None:
        trying = asyncio.create_task(dial(hang, "x"))
        await asyncio.sleep(0)
        trying.cancel()

    asyncio.run(leave())
    go_on.set()
    threads[0].join(10)
    assert ours.fileno() < 0


def test_tries_that_hang_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialing, "DIAL_S", 0.01)
    monkeypatch.setattr(dialing, "MOST_THREADS", 2)
    go_on = threading.Event()

    async def try_thrice() -> None:
        for why in ("no connection", "no connection", "too many"):
            with pytest.raises(UnreachableError, match=why):
                await dial(lambda: go_on.wait(10) and None, "x")

    asyncio.run(try_thrice())
    go_on.set()
