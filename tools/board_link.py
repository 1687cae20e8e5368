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
import struct
import time
from collections.abc import Iterator, Mapping, Sequence
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
    WornError,
)
from tools.board_work import limit_s
from tools.firmware import digest
from tools.lifetime import Closeable
from tools.serial_port import open_port

ANSWER_S = limit_s()  # of silence, for a piece of code that has little to do
STOP_S = 4.0  # how long a firmware may take to let go; it is asked STOP_TRIES times
STOP_TRIES = 5
# boot.py runs before the prompt; one of before slots may have an earlier deploy to end there.
BOOT_FILES = 100
CHUNK = 512
NEXT = ".next"  # behind the name of a file that is to take another's place
AT_A_TIME = 16  # paths in one piece of code
_PROMPT = b"raw REPL; CTRL-B to exit\r\n"


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
        except (TransportError, struct.error) as error:  # the other is mpremote's for no answer
            text = str(error)
            if "timeout" in text or isinstance(error, struct.error):
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
                    self._soft_reset()
                    break
            else:
                self._soft_reset()
        with self._guard("running boot.py"):
            self._expect(_PROMPT, limit_s(files=BOOT_FILES))

    def _soft_reset(self) -> None:
        """Stop what runs and let the board begin again, up to its boot.py."""
        self._transport.enter_raw_repl(soft_reset=False, timeout_overall=STOP_S)
        self._transport.serial.write(b"\x04")
        self._expect(b"soft reboot\r\n", STOP_S)

    def _expect(self, ending: bytes, silence_s: float) -> None:
        if not self._transport.read_until(1, ending, timeout=silence_s).endswith(ending):
            raise TransportError("could not enter raw repl")

    def run(self, code: str, silence_s: float = ANSWER_S) -> str:
        """Run code on the board and give what it prints. Raises OnBoardError.

        silence_s: the longest [s] that it may print nothing.
        """
        with self._guard("running code"):
            out, trace = self._transport.exec_raw(code, timeout=silence_s)
        if trace:
            text = trace.decode(errors="replace")
            if "OSError: 28" in text or "ENOSPC" in text:
                raise FullError(f"{self.port}: the board's file system is full")
            raise OnBoardError(text)
        return str(out.decode(errors="replace"))

    def run_with(self, code: str, key: str, values: Sequence[object], silence_s: float) -> str:
        """Run code for a list of `values`, a few at a time; gives all that it prints."""
        return "".join(
            self.run(code.format(**{key: list(values[at : at + AT_A_TIME])}), silence_s)
            for at in range(0, len(values), AT_A_TIME)
        )

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
        code = "import os\ns = os.statvfs('/')\nprint(s[0] * s[3])"
        return int(self.run(code, limit_s(writes=1)))

    def tree(self, folder: str) -> list[str]:
        """List every file below a folder, "" for all; paths begin with a slash."""
        return self.run(board_code.TREE.format(folder=folder)).split()

    def differing(self, files: Mapping[str, bytes]) -> list[str]:
        """Give the paths whose content, as the board reads it, is another or not there."""
        sizes = [(path, len(data)) for path, data in files.items()]
        largest = max((size for _, size in sizes), default=0)
        said = self.run_with(board_code.HASHES, "sizes", sizes, limit_s(size_bytes=largest))
        found = dict(line.rsplit(" ", 1) for line in said.splitlines())
        return [path for path, data in files.items() if found.get(path) != digest(data)]

    def has(self, path: str) -> bool:
        """Say whether there is such a file."""
        code = f"import os\ntry:\n    print(os.stat({path!r})[6])\nexcept OSError:\n    pass"
        return bool(self.run(code).strip())

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

    def mkdirs(self, folders: Sequence[str]) -> None:
        """Make folders where they are not there; parents first."""
        self.run_with(board_code.MKDIRS, "folders", folders, limit_s(writes=1))

    def remove(self, paths: Sequence[str]) -> list[str]:
        """Remove files, and give those that were there."""
        return self.run_with(board_code.REMOVE, "paths", paths, limit_s(writes=1)).split()

    def prune(self, folder: str) -> None:
        """Remove the folders that hold no file, at `folder` and below."""
        self.run(board_code.PRUNE.format(folder=folder), limit_s(files=2, writes=1))

    def write(self, path: str, content: bytes) -> None:
        """Write a file in place: littlefs keeps the old content until it is closed."""
        silence_s = limit_s(writes=1)
        self.run(f"f = open({path!r}, 'wb')", silence_s)
        try:
            for at in range(0, len(content), CHUNK):
                self.run(f"f.write({content[at : at + CHUNK]!r})", silence_s)
        except (FullError, OnBoardError):
            with contextlib.suppress(LinkError):
                self.run("f.close()", silence_s)
            raise
        self.run("f.close()", silence_s)

    def replace(self, path: str, content: bytes) -> None:
        """Put a file in the place of another at one moment, checked as the board reads it.

        It costs a renaming, so it is for the few files that are in no slot. Raises LinkError.
        """
        beside = path + NEXT
        for _ in range(2):
            self.write(beside, content)
            if not self.differing({beside: content}):
                self.run(f"import os\nos.rename({beside!r}, {path!r})", limit_s(files=2, writes=1))
                return
        raise WornError(self.port, path)

    def let_run(self) -> None:
        """Let what is on the board run again, where it can still be told so."""
        with contextlib.suppress(OSError, serial.SerialException):
            self._transport.serial.write(b"\r\x03\r\x02\x04")
            self._transport.in_raw_repl = False

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
