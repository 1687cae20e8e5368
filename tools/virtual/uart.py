"""The console of a virtual board: its bytes to the log and the port, and typed bytes to it.

Used from the reactor's thread only.
"""

from __future__ import annotations

import os

from tools.virtual.console import Console
from tools.virtual.process import Process
from tools.virtual.reactor import READ, Reactor
from tools.virtual.terminal import Terminal


class Uart:
    """The wire between a running interpreter's console and who listens; it outlives the runs.

    terminal: the board's serial port, where it has one. raw, interruptible: as the firmware has
    set its console; Ctrl-C interrupts only then.
    """

    def __init__(self, reactor: Reactor, console: Console, *, pty: bool) -> None:
        self.raw = self.interruptible = False
        self._reactor, self._console = reactor, console
        self._process: Process | None = None
        self._serving = False
        self._input = bytearray()
        self.terminal = (
            reactor.do(lambda: Terminal(reactor, self.typed, self._resume)) if pty else None
        )

    def attach(self, process: Process, *, serving: bool) -> None:
        """Listen to a new run. serving: the port is the flashing tool's and shows nothing."""
        self._process, self._serving, self.interruptible = process, serving, False
        self._input.clear()
        self._reactor.watch(process.output, READ, self._printed)

    def detach(self) -> None:
        """Take what was printed, and listen no more."""
        self.drain()
        if self._process is not None:
            for fd in (self._process.output, self._process.input):
                self._reactor.watch(fd, 0, self._printed)
            self._process = None

    def close(self) -> None:
        """Take the port away."""
        if self.terminal:
            self.terminal.close()

    def drain(self) -> None:
        """Take what was printed before now."""
        while self._process is not None and self._take_output():
            pass

    def _printed(self, _events: int) -> None:
        self._take_output()
        if self.terminal and self.terminal.full and self._process:
            self._reactor.watch(self._process.output, 0, self._printed)

    def _resume(self) -> None:
        """Somebody has read what the port was full of."""
        if self._process is not None:
            self._reactor.watch(self._process.output, READ, self._printed)

    def _take_output(self) -> bool:
        if self._process is None:
            return False
        try:
            data = os.read(self._process.output, 65536)
        except OSError:
            return False
        if data:
            self._console.feed(data)
            if self.terminal and not self._serving:
                cooked = self.interruptible and not self.raw
                self.terminal.show(data.replace(b"\n", b"\r\n") if cooked else data)
        return bool(data)

    def typed(self, data: bytes) -> None:
        """Give typed bytes to the board; Ctrl-C interrupts what runs."""
        if self._process is None:
            return
        while self.interruptible and b"\x03" in data:
            before, _, data = data.partition(b"\x03")
            self._input += before
            self._process.interrupt()
        self._input += data
        try:
            sent = os.write(self._process.input, self._input)
        except OSError:
            sent = 0
        del self._input[:sent]
