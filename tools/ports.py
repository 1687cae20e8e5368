"""Free TCP ports on the loopback interface."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

HOST = "127.0.0.1"


class PortError(OSError):
    """Nothing answers on a port within the deadline."""


def free_port() -> int:
    """Return a TCP port of the loopback interface that nothing listens on now.

    Between this call and its use another process may take the port; who listens should be
    ready to try another.
    """
    with socket.socket() as sock:
        sock.bind((HOST, 0))
        port: int = sock.getsockname()[1]
        return port


def answers(port: int) -> bool:
    """Tell whether something accepts a connection on a loopback port now."""
    with socket.socket() as sock:
        sock.settimeout(1.0)
        return sock.connect_ex((HOST, port)) == 0


def wait_for_port(
    port: int, timeout_s: float = 10.0, *, alive: Callable[[], bool] = lambda: True
) -> None:
    """Wait until something accepts on a loopback port.

    Raises PortError after timeout_s [s], or as soon as `alive` says that it is in vain.
    """
    deadline = time.monotonic() + timeout_s
    while not answers(port):
        if not alive():
            raise PortError(f"what should listen on {HOST}:{port} is gone")
        if time.monotonic() > deadline:
            raise PortError(f"nothing answers on {HOST}:{port} after {timeout_s} s")
        time.sleep(0.02)
