"""The serial port of a virtual board: a pty that behaves like a USB serial adapter.

What the board says while nobody has the port open is lost, as on a cable. What it says to
somebody who reads slowly waits, and then the board waits.
"""

from __future__ import annotations

import os
import pty
import select
import termios
import tty
from collections.abc import Callable

from tools.virtual.reactor import READ, WRITE, Alarm, Reactor

BACKLOG = 1 << 18
LOOK_S = 0.02  # how often to look whether somebody opened the port


class Terminal:
    """A pty; `typed` gets what comes in; `drained` is called when a full one is read.

    Used from the reactor's thread.
    """

    def __init__(
        self, reactor: Reactor, typed: Callable[[bytes], None], drained: Callable[[], None]
    ) -> None:
        self._reactor, self._typed, self._drained = reactor, typed, drained
        self._master, slave = pty.openpty()
        self.path = os.ttyname(slave)
        tty.setraw(slave)
        settings = termios.tcgetattr(slave)
        termios.tcsetattr(slave, termios.TCSANOW, settings)
        os.close(slave)
        os.set_blocking(self._master, False)
        self._out = bytearray()
        self._alarm: Alarm | None = None
        self._look()

    @property
    def open(self) -> bool:
        """Say whether somebody has the port open."""
        poll = select.poll()
        poll.register(self._master, 0)
        return not any(events & select.POLLHUP for _, events in poll.poll(0))

    @property
    def full(self) -> bool:
        """Say whether the board should wait until somebody has read."""
        return len(self._out) > BACKLOG

    def show(self, data: bytes) -> None:
        """Send what the board said."""
        if not self.open:
            self._forget()
            return
        self._out += data
        self._flush()

    def close(self) -> None:
        """Take the port away."""
        if self._alarm:
            self._alarm.cancel()
        self._reactor.watch(self._master, 0, self._ready)
        os.close(self._master)

    def _look(self) -> None:
        if self.open:
            self._watch()
        else:
            self._reactor.watch(self._master, 0, self._ready)
            self._forget()
            self._alarm = self._reactor.later(LOOK_S, self._look)

    def _watch(self) -> None:
        self._reactor.watch(self._master, READ | (WRITE if self._out else 0), self._ready)

    def _ready(self, events: int) -> None:
        if events & READ:
            try:
                data = os.read(self._master, 4096)
            except BlockingIOError:
                data = b""
            except OSError:  # the last one closed it
                self._look()
                return
            if data:
                self._typed(data)
        if events & WRITE:
            self._flush()

    def _flush(self) -> None:
        try:
            sent = os.write(self._master, self._out) if self._out else 0
        except OSError:
            sent = 0
        was_full = self.full
        del self._out[:sent]
        if was_full and not self.full:
            self._drained()
        self._watch()

    def _forget(self) -> None:
        was_full = self.full
        self._out.clear()
        if was_full:
            self._drained()
