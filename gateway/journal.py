"""The journal: commits in front of the database, one write and one sync each.

A file of fixed size, made of zeros once, so that a commit changes no file size and is as fast as
the disk can be. Each record begins a page of its own: what was acknowledged is never written over
by what comes later. A record:

    generation (8) | length of the body (4) | CRC-32 of all but itself (4) | body

When the database has taken over all that is in it, the next generation begins at the start of the
file; the database knows the last one it took over, and up to which offset. Not more: a disk may
tell us that it could not sync what it has all the same, and we then go on in the same generation,
behind what the database turns out to have after a crash. A generation begins at a random number
with a new database, so that a journal is never read into another's.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
import zlib
from contextlib import suppress
from pathlib import Path

from msgspec import Struct, field

from gateway.errors import OutboxError

JOURNAL = "-batches"  # behind the database's name; SQLite takes -journal, -wal and -shm
PAGE = 4096
SIZE_BYTES = 4 << 20
SMALLEST_BYTES = 256 << 10  # on a small disk
SHARE = 16  # of a disk that it takes, at most
ALL = 1 << 62  # an offset behind every record: the whole generation
LIFE = 1 << 40  # generations of one database; two that began at random are further apart
RESERVE_BYTES = 64 << 10  # for what makes room, see `room`
ZEROS_BYTES = 1 << 20  # written at once
_HEAD = struct.Struct(">QII")
_SUM = struct.Struct(">QI")


class AlienError(OutboxError):
    """The journal is of another database."""


class Found(Struct):
    """What is to be applied yet, and where to go on.

    bodies: in order. end: the offset behind them. damaged: one in between is unreadable.
    """

    generation: int
    end: int
    bodies: list[bytes] = field(default_factory=list)
    damaged: bool = False


def fitting_bytes(folder: Path, most_bytes: int = SIZE_BYTES) -> int:
    """The size of a journal on the disk of that folder."""
    try:
        disk = os.statvfs(folder)
    except OSError:
        return most_bytes
    share = disk.f_blocks * disk.f_frsize // SHARE // PAGE * PAGE
    return min(most_bytes, max(SMALLEST_BYTES, share))


class Journal:
    """One generation of records. Raises OutboxError where the disk does."""

    def __init__(self, path: Path, size_bytes: int = SIZE_BYTES) -> None:
        self.path, self.size_bytes, self.want_bytes = path, size_bytes, size_bytes
        self.generation = 0
        self.at = 0  # the offset of the next record
        self.torn = False  # a write failed; what it left may look whole until the next one
        self._fd = -1
        self._buffer = mmap.mmap(-1, 16 * PAGE)  # O_DIRECT wants whole pages of memory
        try:
            self._fd = _open(path)
            have = os.fstat(self._fd).st_size // PAGE * PAGE
            if have < size_bytes:
                try:
                    lengthen(self._fd, have, size_bytes)
                except OSError:
                    if have < min(SMALLEST_BYTES, size_bytes):
                        raise
                    self.size_bytes = have  # a full disk
                _sync_folder(path.parent)
            elif have > size_bytes:
                self.size_bytes = have  # until it is empty, see `begin`
        except OSError as error:
            self.close()
            raise OutboxError(f"{path}: {error.strerror}; is there room on the disk?") from error

    def read(self, applied: int, at: int = ALL) -> Found:
        """Find what the database does not have, and go on behind it; see the function `read`."""
        found = read(self.path, applied, at)
        self.generation, self.at = found.generation, found.end
        return found

    def begin(self) -> None:
        """Start the next generation: the database has everything, and that is on the disk."""
        self.generation, self.at, self.torn = self.generation + 1, 0, False
        if self.size_bytes > self.want_bytes:  # an earlier version's: give the rest back
            with suppress(OSError):
                os.ftruncate(self._fd, self.want_bytes)
                self.size_bytes = self.want_bytes

    def shrink(self) -> bool:
        """Give half of an empty one back to the disk; False where it is as small as it may be."""
        half = self.size_bytes // 2 // PAGE * PAGE
        if not self.empty() or half < SMALLEST_BYTES:
            return False
        try:
            os.ftruncate(self._fd, half)
        except OSError:
            return False
        self.size_bytes = half
        return True

    def room(self, body: bytes, *, reserve: bool) -> bool:
        """Whether a record fits. reserve: it makes room, so it may have what is kept for that."""
        most = self.size_bytes if reserve else self.size_bytes - RESERVE_BYTES
        return self.at + _pages(_HEAD.size + len(body)) <= most

    def empty(self) -> bool:
        """Whether this generation has no record yet."""
        return self.at == 0

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
        self.torn = True
        try:
            if os.pwrite(self._fd, memoryview(buffer)[:size], self.at) != size:
                raise OutboxError(f"{self.path}: the disk took a part of a write")
        except OSError as error:
            raise OutboxError(f"{self.path}: {error.strerror}") from error
        self.at += size
        self.torn = False

    def close(self) -> None:
        """Let the file go."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def read(path: Path, applied: int, at: int = ALL) -> Found:
    """Find what a database does not have that took over a generation up to the offset `at`.

    That is the next generation: it was begun when the database had all of this one for sure, so
    what is left of this one's is of no worth then. Or, where the next one was not begun, what this
    one has from `at` on. Raises AlienError where the file is of another database.
    """
    data = path.read_bytes() if path.exists() else b""
    rest, following = Found(applied, at), Found(applied + 1, 0)
    place = 0
    while place + _HEAD.size <= len(data):
        generation, length, crc = _HEAD.unpack_from(data, place)
        stop = place + _HEAD.size + length
        body = data[place + _HEAD.size:stop]
        if generation == 0 or stop > len(data) \
                or zlib.crc32(body, zlib.crc32(data[place:place + _SUM.size])) != crc:
            place += PAGE  # never written, torn by a power cut, or damaged
            continue
        if place == 0 and not 0 <= applied + 1 - generation < LIFE:
            raise AlienError(f"{path}: is not of this outbox")
        behind = place + _pages(stop - place)
        for found in (rest, following):
            if generation == found.generation and place >= found.end:
                found.damaged = found.damaged or place != found.end
                found.bodies.append(body)
                found.end = behind
        place = behind
    return rest if rest.bodies and not following.bodies else following


def lengthen(fd: int, have_bytes: int, size_bytes: int) -> None:
    """Write zeros up to a size: what is then written there needs no more room. Raises OSError."""
    zeros = mmap.mmap(-1, ZEROS_BYTES)
    while have_bytes < size_bytes:
        part = memoryview(zeros)[:size_bytes - have_bytes]
        have_bytes += os.pwrite(fd, part, have_bytes)
    os.fsync(fd)


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
