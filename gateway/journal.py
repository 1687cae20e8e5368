"""The journal: commits in front of the database, one write and one sync each.

A file of fixed size, made of zeros once, so that a commit changes no file size and is as fast as
the disk can be. Each record begins a page of its own: what was acknowledged is never written over
by what comes later. A record:

    generation (8) | length of the body (4) | CRC-32 of all but itself (4) | body

When the database has taken over all that is in it, the next generation begins at the start of the
file; the database knows the last one it took over. A generation begins at a random number with a
new database, so that a journal is never read into another's.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
import zlib
from pathlib import Path

from gateway.errors import OutboxError

PAGE = 4096
SIZE_BYTES = 4 << 20
LIFE = 1 << 40  # generations of one database; two that began at random are further apart
RESERVE_BYTES = 64 << 10  # for what makes room, see `room`
_HEAD = struct.Struct(">QII")
_SUM = struct.Struct(">QI")


class AlienError(OutboxError):
    """The journal is of another database."""


class Journal:
    """One generation of records. Raises OutboxError where the disk does."""

    def __init__(self, path: Path, size_bytes: int = SIZE_BYTES) -> None:
        self.path, self.size_bytes = path, size_bytes
        self.generation = 0
        self.damaged = False  # a record is unreadable although there are later ones
        self._at = 0
        self._fd = -1
        self._buffer = mmap.mmap(-1, 16 * PAGE)  # O_DIRECT wants whole pages of memory
        try:
            self._fd = _open(path)
            have = os.fstat(self._fd).st_size // PAGE * PAGE
            if have < size_bytes:
                os.pwrite(self._fd, mmap.mmap(-1, size_bytes - have), have)
                os.fsync(self._fd)
                _sync_folder(path.parent)
        except OSError as error:
            self.close()
            raise OutboxError(f"{path}: {error.strerror}; is there room on the disk?") from error

    def read(self, applied: int) -> list[bytes]:
        """The bodies of the generation after `applied`, in order; go on behind them.

        Raises AlienError where the file is of another database.
        """
        bodies, self._at, self.damaged = read(self.path, applied)
        self.generation = applied + 1
        return bodies

    def begin(self, generation: int) -> None:
        """Start anew: the database has everything."""
        self.generation, self._at = generation, 0

    def room(self, body: bytes, *, reserve: bool) -> bool:
        """Whether a record fits. reserve: it makes room, so it may have what is kept for that."""
        most = self.size_bytes if reserve else self.size_bytes - RESERVE_BYTES
        return self._at + _pages(_HEAD.size + len(body)) <= most

    def empty(self) -> bool:
        """Whether this generation has no record yet."""
        return self._at == 0

    def append(self, body: bytes) -> None:
        """Write a record; returns after its sync. After an error the record may be there or not,
        and the next one takes its place."""
        head = _SUM.pack(self.generation, len(body))
        head += zlib.crc32(body, zlib.crc32(head)).to_bytes(4, "big")
        length, size = len(head) + len(body), _pages(len(head) + len(body))
        buffer = self._buffer
        if len(buffer) < size:
            buffer = mmap.mmap(-1, size)
        buffer[:length] = head + body
        try:
            if os.pwrite(self._fd, memoryview(buffer)[:size], self._at) != size:
                raise OutboxError(f"{self.path}: the disk took a part of a write")
        except OSError as error:
            raise OutboxError(f"{self.path}: {error.strerror}") from error
        self._at += size

    def close(self) -> None:
        """Let the file go."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def read(path: Path, applied: int) -> tuple[list[bytes], int, bool]:
    """Bodies of the generation after `applied`, where they end, and whether one in between is
    unreadable. Raises AlienError."""
    data = path.read_bytes() if path.exists() else b""
    bodies: list[bytes] = []
    end, at, damaged = 0, 0, False
    while at + _HEAD.size <= len(data):
        generation, length, crc = _HEAD.unpack_from(data, at)
        stop = at + _HEAD.size + length
        body = data[at + _HEAD.size:stop]
        if generation == 0 or stop > len(data) \
                or zlib.crc32(body, zlib.crc32(data[at:at + _SUM.size])) != crc:
            at += PAGE  # never written, torn by a power cut, or damaged
            continue
        if at == 0 and not 0 <= applied + 1 - generation < LIFE:
            raise AlienError(f"{path}: is not of this outbox")
        if generation == applied + 1:
            damaged = damaged or at != end
            bodies.append(body)
            end = at + _pages(stop - at)
        at += _pages(stop - at)
    return bodies, end, damaged


def _open(path: Path) -> int:
    """Open so that a write returns when it is on the disk, past the page cache where the file
    system can do that: it takes half the time."""
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_DSYNC
    try:
        return os.open(path, flags | os.O_DIRECT, 0o600)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.open(path, flags, 0o600)


def _pages(count: int) -> int:
    return (count + PAGE - 1) // PAGE * PAGE


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
