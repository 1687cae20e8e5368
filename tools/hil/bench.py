"""The boards of a bench: hil.toml says which there are, a lock says who has one now.

A board is reserved by flock: the kernel frees it when its holder dies. Real boards are locked for
the whole machine, by their serial number or port; virtual ones belong to who makes them.
"""

from __future__ import annotations

import fcntl
import os
import re
import socket
import tempfile
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import msgspec
from serial.tools import list_ports

from tools import boards as board_files
from tools.ports import HOST

VIRTUAL_FEATURES = frozenset({"virtual", "console", "wifi", "power", "brownout", "world",
                              "firmware"})
LOCK_FOLDERS = (Path("/run/lock"), Path(tempfile.gettempdir()))
NEEDED = """\
make hil needs boards: name them in a hil.toml and run `make hil HIL=hil.toml`.

  host = "192.0.2.10"           # this machine's address as real boards reach it

  [[board]]                     # as many as there are
  name = "bench-1"
  kind = "esp32-devkitc"        # a file of boards/; `tidegate hil boards` lists what is plugged in
  serial = "0001"               # the USB serial number, or port = "/dev/ttyUSB0"
  relay = 17                    # optional: GPIO (BCM) of a relay in its supply, at rest: powered
  features = ["bluetooth"]      # optional: what tests may ask for by needs(...)

  [[board]]
  name = "virtual-1"            # no hardware: the firmware on this machine
  virtual = true
"""


class BenchError(Exception):
    """hil.toml cannot be used. One line."""


class NoBoardError(Exception):
    """No board of the bench can be had; the text says why of each."""


class Entry(msgspec.Struct, forbid_unknown_fields=True):
    """`[[board]]`; see NEEDED. deploy: whether it gets the firmware of this checkout."""

    name: str
    kind: str = "virtual"
    virtual: bool = False
    serial: str = ""
    port: str = ""
    relay: int | None = None
    features: list[str] = []
    deploy: bool = True

    @property
    def has(self) -> frozenset[str]:
        """What tests may ask of it."""
        if self.virtual:
            return VIRTUAL_FEATURES
        own = {"real", "console", "world"} | ({"power"} if self.relay is not None else set())
        return frozenset({*self.features, *own})

    def find_port(self) -> str | None:
        """Return its serial port as it is now; None where it is not plugged in."""
        if self.port:
            return self.port if Path(self.port).exists() else None
        for found in list_ports.comports():
            if found.serial_number == self.serial:
                return str(found.device)
        return None


class _File(msgspec.Struct, forbid_unknown_fields=True):
    host: str = HOST
    board: list[Entry] = []


def _check_host(host: str) -> None:
    """Raise ValueError where nothing here can listen on an address that boards could reach."""
    if host in ("", "0.0.0.0", "::"):
        raise ValueError(f"host = {host!r}: one address of this machine is needed, which boards "
                         "are told to connect to")
    try:
        with socket.socket() as sock:
            sock.bind((host, 0))
    except OSError as error:
        raise ValueError(f"host = {host!r}: not an IPv4 address of this machine "
                         f"({error.strerror or error})") from error


def _lock_folder() -> Path:
    for folder in LOCK_FOLDERS:
        if folder.is_dir() and os.access(folder, os.W_OK):
            return folder
    return LOCK_FOLDERS[-1]


class Bench:
    """The boards of a hil.toml; `take` reserves one. host: where boards reach this machine."""

    def __init__(self, entries: Sequence[Entry], host: str = HOST) -> None:
        self.entries, self.host = list(entries), host
        self._mine: set[str] = set()

    @classmethod
    def load(cls, path: Path) -> Bench:
        """Read a hil.toml. Raises BenchError."""
        try:
            found = msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), _File)
            _check_host(found.host)
        except OSError as error:
            raise BenchError(f"{path}: {error.strerror}") from error
        except ValueError as error:
            raise BenchError(f"{path}: {error}") from error
        names: set[str] = set()
        for entry in found.board:
            if entry.name in names or not re.fullmatch(r"[a-z0-9_-]{1,32}", entry.name):
                raise BenchError(f"{path}: board {entry.name!r}: a name of its own, of a-z, 0-9, "
                                 "_ and -, is needed")
            names.add(entry.name)
            if not entry.virtual and bool(entry.serial) == bool(entry.port):
                raise BenchError(f"{path}: board {entry.name}: one of serial and port is needed, "
                                 "or virtual = true")
            try:
                board_files.load(entry.kind)
            except board_files.BoardError as error:
                raise BenchError(f"{path}: board {entry.name}: {error}") from error
        if not found.board:
            raise BenchError(f"{path}: no [[board]] in it")
        return cls(found.board, found.host)

    @classmethod
    def virtual(cls, count: int = 3) -> Bench:
        """A bench of virtual boards, for machines without any."""
        return cls([Entry(name=f"virtual-{number + 1}", virtual=True) for number in range(count)])

    @property
    def unreachable(self) -> list[str]:
        """The real boards that are told of an address which only this machine reaches."""
        local = self.host.startswith("127.")
        return [entry.name for entry in self.entries if local and not entry.virtual]

    def features(self) -> frozenset[str]:
        """All that any board has."""
        return frozenset[str]().union(*(entry.has for entry in self.entries))

    @contextmanager
    def take(self, needs: Iterable[str] = ()) -> Iterator[Entry]:
        """Reserve a board that has all of `needs`. Raises NoBoardError."""
        wanted, reasons = frozenset(needs), []
        for entry in self.entries:
            lacking = wanted - entry.has
            if lacking:
                reasons.append(f"{entry.name} has no {', '.join(sorted(lacking))}")
                continue
            with ExitStack() as stack:
                try:
                    stack.enter_context(self.take_entry(entry))
                except NoBoardError as error:
                    reasons.append(str(error))
                    continue
                yield entry
                return
        raise NoBoardError(f"no board with {', '.join(sorted(wanted)) or 'anything'}: "
                           f"{'; '.join(reasons) or 'the bench is empty'}")

    @contextmanager
    def take_entry(self, entry: Entry) -> Iterator[Entry]:
        """Reserve this board. Raises NoBoardError."""
        if entry.name in self._mine:
            raise NoBoardError(f"{entry.name} is in use by this run")
        if not entry.virtual and entry.find_port() is None:
            raise NoBoardError(f"{entry.name} is not plugged in")
        lock = self._lock(entry)
        self._mine.add(entry.name)
        try:
            yield entry
        finally:
            self._mine.discard(entry.name)
            if lock is not None:
                lock.close()

    def _lock(self, entry: Entry) -> IO[str] | None:
        """Lock a real board. Raises NoBoardError."""
        if entry.virtual:
            return None
        key = re.sub(r"[^A-Za-z0-9]+", "-", entry.serial or str(Path(entry.port).resolve()))
        path = _lock_folder() / f"tidegate-hil{'-' if key[0] != '-' else ''}{key}.lock"
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as error:
            raise NoBoardError(f"{entry.name}: {path}: {error.strerror}") from error
        lock = os.fdopen(handle, "r+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = lock.read().strip() or "?"
            lock.close()
            raise NoBoardError(f"{entry.name} is reserved by process {holder}") from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        return lock


def plugged_in() -> list[tuple[str, str, str]]:
    """List serial ports: path, USB serial number, the boards that it fits by its USB ids."""
    found = []
    for port in list_ports.comports():
        if port.vid is not None:
            fits = ", ".join(board.id for board in board_files.fitting(port.vid, port.pid))
            found.append((str(port.device), str(port.serial_number or ""), fits))
    return found
