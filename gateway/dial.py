"""A connection is made in a thread of its own, which is left alone when nobody waits for it.

A name look-up cannot be interrupted, and a peer that answers a byte at a time keeps a handshake
going for ever. A thread of an executor would hold up the end of the process for as long.
"""

from __future__ import annotations

import asyncio
import threading
import traceback
from collections.abc import Callable
from typing import Any

from gateway.errors import UnreachableError

DIAL_S = 60.0  # look-up, TCP (8 s an address), proxy, TLS and WebSocket together
MOST_THREADS = 16  # of all links; each one left alone ends when its peer does


def _close_what_it_holds(error: BaseException | None) -> None:
    """A socket lives in the frames of a handshake that failed, and they in its error: without
    this it stays open, and the peer waiting, until the garbage is collected."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


async def dial(make: Callable[[], Any], name: str) -> Any:
    """Return what `make` returns in a thread; what comes too late for us is closed.

    Raises OSError, ValueError, and UnreachableError for anything else that goes wrong.
    """
    if sum(thread.name.startswith("dial ") for thread in threading.enumerate()) >= MOST_THREADS:
        raise UnreachableError("too many tries hang still")
    loop = asyncio.get_running_loop()
    made: asyncio.Future[Any] = loop.create_future()

    def tell(sock: Any, error: Exception | None) -> None:
        if made.done():
            if sock is not None:
                sock.close()
        elif error is not None:
            made.set_exception(error)
        else:
            made.set_result(sock)

    def work() -> None:
        sock, failed = None, None
        try:
            sock = make()
        except Exception as error:
            _close_what_it_holds(error)
            failed = error if isinstance(error, OSError | ValueError) else UnreachableError(
                f"handshake failed: {error!r}")  # of a foreign parser
        try:
            loop.call_soon_threadsafe(tell, sock, failed)
        except RuntimeError:  # the loop has ended meanwhile
            if sock is not None:
                sock.close()

    threading.Thread(target=work, name=f"dial {name}", daemon=True).start()
    try:
        async with asyncio.timeout(DIAL_S):
            return await made
    except TimeoutError as error:
        if made.done() and not made.cancelled():
            raise
        raise UnreachableError(f"no connection within {DIAL_S:.0f} s") from error
