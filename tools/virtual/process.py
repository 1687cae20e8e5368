"""The interpreter of a virtual board as a process: locked in, on its own wire and console."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

from tools.virtual.flash import Flash
from tools.virtual.jail import REFUSED
from tools.virtual.rootfs import Rootfs

CALM_S = 0.1  # how long Ctrl-C waits for the interpreter to wait for something
FLASH_S = 5.0  # and the longest for its flash
JAIL = Path(__file__).resolve().parent / "jail.py"


class JailError(RuntimeError):
    """This machine gives no way to keep a virtual board from the host's files."""


class Process:
    """One run of the interpreter. wire: JSON lines; output, input: the console's bytes."""

    def __init__(self, rootfs: Rootfs, flash: Flash, heap_kb: int) -> None:
        self._flash = flash
        wire, inner_wire = socket.socketpair()
        inner_in, self.input = os.pipe()
        self.output, inner_out = os.pipe()
        chip = os.open(flash.image, os.O_RDWR)
        counts = os.open(flash.counts, os.O_RDWR)
        given = [inner_in, inner_out, inner_out, inner_wire.fileno(), chip, counts]
        command = [
            sys.executable,
            "-I",
            "-S",
            str(JAIL),
            str(rootfs.path),
            str(os.getpid()),
            ",".join(map(str, given)),
            *rootfs.command,
            *rootfs.interpreter.heap_option(heap_kb),
            "-c",  # not -m: with it Ctrl-C would end the interpreter
            "import _start, _vboot; _vboot.run(globals())",
        ]
        try:
            self._child = subprocess.Popen(
                command, pass_fds=given, start_new_session=True, stdin=subprocess.DEVNULL
            )
        finally:
            inner_wire.close()
            for fd in (inner_in, inner_out, chip, counts):
                os.close(fd)
        self.wire = wire
        for fd in (self.wire.fileno(), self.input, self.output):
            os.set_blocking(fd, False)

    @property
    def pid(self) -> int:
        """Give the process id."""
        return self._child.pid

    def interrupt(self) -> None:
        """Press Ctrl-C.

        This port raises KeyboardInterrupt inside the signal handler, wherever the interpreter is;
        in the middle of a garbage collection that leaves the heap locked for good. So wait for a
        moment in which it waits for something, and only so long: a busy loop has none.
        """
        if self._child.poll() is not None:
            return
        began_s = time.monotonic()
        waited_s = 0.0
        while waited_s < FLASH_S:
            # A chip ends what it does with its flash before it looks.
            if not self._flash.busy() and (self._waits() or waited_s > CALM_S):
                break
            time.sleep(0.0002)
            waited_s = time.monotonic() - began_s
        self._child.send_signal(signal.SIGINT)

    def _waits(self) -> bool:
        try:
            stat = Path(f"/proc/{self._child.pid}/stat").read_text()
        except OSError:
            return True
        return stat.rpartition(")")[2].split()[0] == "S"

    def kill(self) -> int:
        """End it at once, as losing the power does; gives its exit code."""
        if self._child.poll() is None:
            self._child.kill()
        code = self._child.wait()
        self.wire.close()
        for fd in (self.input, self.output):
            if fd >= 0:
                os.close(fd)
        self.input = self.output = -1
        return code

    def ended(self) -> int | None:
        """Give the exit code of a process that ended by itself. Raises JailError."""
        try:
            code = self._child.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return None
        if code == REFUSED:
            raise JailError("a virtual board cannot be locked away from your files here")
        return code
