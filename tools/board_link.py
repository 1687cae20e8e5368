"""A MicroPython board on a serial port. The only file that imports mpremote.

    with BoardLink("/dev/ttyUSB0") as link:
        print(link.info().version)
        link.write("/main.py", b"print('hello')")

Every failure is a LinkError of one line that says what to do.
"""

from __future__ import annotations

import ast
import contextlib
import io
import time
from collections.abc import Callable, Iterator
from typing import Any, Self

import serial
from mpremote.transport import TransportError
from mpremote.transport_serial import SerialTransport

from tools import board_code
from tools.board_code import Info
from tools.board_errors import (
    FullError,
    LinkError,
    OnBoardError,
    SilentError,
    UnpluggedError,
)
from tools.lifetime import Closeable
from tools.serial_port import open_port

ANSWER_S = 15.0  # the longest a piece of code may take
STOP_S = 4.0  # how long a firmware may take to let go; it is asked STOP_TRIES times
STOP_TRIES = 3
CHUNK = 512


class BoardLink(Closeable):
    """A board whose firmware is stopped while we talk. port: the path of a serial port."""

    def __init__(self, port: str) -> None:
        self.port = port
        self._transport: Any = None

    def __enter__(self) -> Self:
        self._transport = open_port(self._open, self.port)
        try:
            self.restart_raw()
        except LinkError:
            self.close()
            raise
        return self

    def _open(self) -> Any:
        """Open the port; None where mpremote could not."""
        try:
            return SerialTransport(self.port, baudrate=115200, timeout=0.2)
        except TransportError:
            return None

    @contextlib.contextmanager
    def _guard(self, doing: str) -> Iterator[None]:
        """Turn what mpremote and pyserial raise into ours; mpremote's prints are dropped."""
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                yield
        except TransportError as error:
            text = str(error)
            if "timeout" in text:
                raise SilentError(f"{self.port}: no answer while {doing}") from error
            raise SilentError(
                f"{self.port}: no MicroPython answers (while {doing}); is an image on it?"
            ) from error
        except (serial.SerialException, OSError) as error:
            raise UnpluggedError(f"{self.port}: the board went away while {doing}") from error

    def close(self) -> None:
        """Let go of the port; the board stays as it is."""
        transport, self._transport = self._transport, None
        if transport is not None:
            with contextlib.suppress(OSError, serial.SerialException):
                if transport.in_raw_repl:
                    transport.exit_raw_repl()
            with contextlib.suppress(OSError, serial.SerialException):
                transport.close()

    def restart_raw(self) -> None:
        """Stop the firmware and begin with an empty heap; boot.py runs, main.py does not."""
        with self._guard("stopping the firmware"):
            for _ in range(STOP_TRIES - 1):
                # A Ctrl-C that comes while the board still starts can go unheard.
                with contextlib.suppress(TransportError):
                    self._transport.enter_raw_repl(soft_reset=True, timeout_overall=STOP_S)
                    return
            self._transport.enter_raw_repl(soft_reset=True, timeout_overall=STOP_S)

    def run(self, code: str, timeout_s: float = ANSWER_S) -> str:
        """Run code on the board and give what it prints. Raises OnBoardError."""
        with self._guard("running code"):
            out, trace = self._transport.exec_raw(code, timeout=timeout_s)
        if trace:
            text = trace.decode(errors="replace")
            if "OSError: 28" in text or "ENOSPC" in text:
                raise FullError(f"{self.port}: the board's file system is full")
            raise OnBoardError(text)
        return str(out.decode(errors="replace"))

    def info(self) -> Info:
        """Ask the board what it is."""
        try:
            version, machine, mpy, platform, unique = ast.literal_eval(
                self.run(board_code.INFO).strip()
            )
        except (ValueError, SyntaxError) as error:
            raise SilentError(f"{self.port}: gives no account of itself") from error
        return Info((version[0], version[1], version[2]), machine, mpy, platform, unique)

    def where(self, module: str) -> str | None:
        """Say where the board would load a module from: a path, or "" if built in or frozen."""
        code = (
            f"try:\n    m = __import__({module!r}, None, None, ('',))\n"
            "    print('at', getattr(m, '__file__', ''))\nexcept ImportError:\n    print('none')"
        )
        said = self.run(code).strip()
        if said == "none":
            return None
        path = said[3:]
        return path if path.startswith(("/lib/", "lib/")) else ""

    def free_bytes(self) -> int:
        """Ask how much room the file system has."""
        said = self.run("import os\ns = os.statvfs('/')\nprint(s[0] * s[3])")
        return int(said)

    def tree(self, folder: str) -> list[str]:
        """List every file below a folder, "" for all; paths begin with a slash."""
        return self.run(board_code.TREE.format(folder=folder)).split()

    def hashes(self, paths: list[str]) -> dict[str, str | None]:
        """Give the SHA-256 of each file as the board reads it, None where there is none."""
        found: dict[str, str | None] = {}
        for at in range(0, len(paths), 16):
            said = self.run(board_code.HASHES.format(paths=paths[at : at + 16]))
            for line in said.splitlines():
                path, _, digest = line.rpartition(" ")
                found[path] = None if digest == "-" else digest
        return found

    def read(self, path: str) -> bytes | None:
        """Give a file's contents, None where there is none."""
        code = f"f = open({path!r}, 'rb')\nwhile True:\n    d = f.read({CHUNK})\n"
        code += "    if not d:\n        break\n    print(d.hex())\nf.close()"
        try:
            return bytes.fromhex("".join(self.run(code).split()))
        except OnBoardError as error:
            if "ENOENT" in error.trace or "OSError: 2" in error.trace:
                return None
            raise

    def mkdirs(self, folders: list[str]) -> None:
        """Make folders where they are not there; parents first."""
        if folders:
            self.run(board_code.MKDIRS.format(folders=folders))

    def write(
        self, path: str, content: bytes, progress: Callable[[int], None] | None = None
    ) -> None:
        """Write a file; `progress` gets the number of bytes of each step."""
        self.run(f"f = open({path!r}, 'wb')")
        try:
            for at in range(0, len(content), CHUNK):
                self.run(f"f.write({content[at : at + CHUNK]!r})")
                if progress:
                    progress(len(content[at : at + CHUNK]))
        finally:
            with contextlib.suppress(UnpluggedError, SilentError):
                self.run("f.close()")

    def restart(self) -> None:
        """Start the firmware: boot.py and main.py run from an empty heap."""
        with self._guard("restarting"):
            self._transport.exit_raw_repl()
            self._transport.read_until(1, b">>> ", timeout_overall=5)
            self._transport.serial.write(b"\x04")

    def reset(self) -> None:
        """Reset the chip; the port may go away."""
        with self._guard("resetting"):
            self._transport.exec_raw_no_follow("import machine\nmachine.reset()")
            self._transport.in_raw_repl = False

    def lines(self, timeout_s: float) -> Iterator[str]:
        """Give the console's lines as they come, until nothing more comes by `timeout_s` [s]."""
        deadline = time.monotonic() + timeout_s
        partial = b""
        while time.monotonic() < deadline:
            with self._guard("reading its console"):
                port = self._transport.serial
                partial += port.read(max(1, port.in_waiting))
            *whole, partial = partial.split(b"\n")
            for line in whole:
                yield line.strip(b"\r").decode(errors="replace")
