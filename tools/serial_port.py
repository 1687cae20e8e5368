"""Serial ports: which are there, why one cannot be opened, and what comes out of one."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import serial
import serial.tools.list_ports

from tools.board_errors import PortError, UnpluggedError

Opened = TypeVar("Opened")


@dataclass(frozen=True)
class Port:
    """A serial port. vendor, product: USB ids, None where it has none."""

    path: str
    what: str
    vendor: int | None
    product: int | None


def ports() -> list[Port]:
    """List the USB serial ports that are plugged in."""
    return [
        Port(port.device, port.description or "", port.vid, port.pid)
        for port in sorted(serial.tools.list_ports.comports())
        if port.vid is not None
    ]


BUSY_S = 1.0  # how long a port in use is tried again: its last user may just be letting go


def open_port(open_it: Callable[[], Opened], path: str) -> Opened:
    """Open a port by `open_it`, which raises OSError or gives None. Raises PortError."""
    end = time.monotonic() + BUSY_S
    while True:
        try:
            opened = open_it()
            if opened is not None:
                return opened
            reason: OSError | None = None
        except OSError as error:
            reason = error
        if time.monotonic() > end or not _may_pass(path):
            raise PortError(_why_not(path)) from reason
        time.sleep(0.05)


def _refusal(path: str) -> OSError | None:
    """Try a port once; gives what is in the way."""
    try:
        serial.Serial(path, exclusive=True).close()
    except OSError as error:
        return error
    return None


def _is_busy(error: OSError) -> bool:
    return error.errno in (errno.EAGAIN, errno.EBUSY) or "lock" in str(error)


def _may_pass(path: str) -> bool:
    """Say whether what is in the way may be gone in a moment."""
    error = _refusal(path)
    return error is None or _is_busy(error)


def _why_not(path: str) -> str:
    """Say why a port cannot be opened."""
    error = _refusal(path)
    if error is None:
        return f"{path}: cannot be opened"
    if error.errno == errno.ENOENT or "No such file" in str(error):
        return f"{path}: no such port; `tidegate board list` shows what is plugged in"
    if _is_busy(error):
        return f"{path}: in use by another program; close it and try again"
    if error.errno == errno.EACCES:
        return f"{path}: no permission; add yourself to the group dialout"
    if error.errno == errno.ENOTTY or "Could not configure port" in str(error):
        return f"{path}: not a serial port; `tidegate board list` shows what is plugged in"
    return f"{path}: {error.strerror or error}"


class Console:
    """A board's console without stopping its firmware."""

    def __init__(self, port: str) -> None:
        self._serial = open_port(
            lambda: serial.Serial(port, 115200, timeout=0.2, exclusive=True), port
        )
        self.port = port

    def lines(self, timeout_s: float | None = None) -> Iterator[str]:
        """Give each line that the board prints, for `timeout_s` [s] or until it goes away."""
        end = None if timeout_s is None else time.monotonic() + timeout_s
        partial = b""
        while end is None or time.monotonic() < end:
            try:
                partial += self._serial.read(max(1, self._serial.in_waiting))
            except OSError as error:
                raise UnpluggedError(f"{self.port}: the board went away") from error
            *whole, partial = partial.split(b"\n")
            for line in whole:
                yield line.strip(b"\r").decode(errors="replace")

    def close(self) -> None:
        """Let go of the port."""
        self._serial.close()
