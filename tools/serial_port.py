"""Serial ports: which are there, why one cannot be opened, and what comes out of one."""

from __future__ import annotations

import errno
import time
from collections.abc import Iterator
from dataclasses import dataclass

import serial
import serial.tools.list_ports

from tools.board_errors import PortError, UnpluggedError


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


def why_not(path: str) -> str:
    """Say why a port cannot be opened."""
    try:
        serial.Serial(path, exclusive=True).close()
    except OSError as error:
        code = getattr(error, "errno", None)
        if code == errno.ENOENT or "No such file" in str(error):
            return f"{path}: no such port; `tidegate board list` shows what is plugged in"
        if code in (errno.EAGAIN, errno.EBUSY) or "lock" in str(error):
            return f"{path}: in use by another program; close it and try again"
        if code == errno.EACCES:
            return f"{path}: no permission; add yourself to the group dialout"
        return f"{path}: {error}"
    return f"{path}: cannot be opened"


class Console:
    """A board's console without stopping its firmware."""

    def __init__(self, port: str) -> None:
        try:
            self._serial = serial.Serial(port, 115200, timeout=0.2, exclusive=True)
        except OSError as error:
            raise PortError(why_not(port)) from error
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
