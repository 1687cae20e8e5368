"""The write-ahead log of an outbox of format 3, on a disk too full for SQLite to take it over.

SQLite writes all of a log into the database before it frees any of it, and what it needs for that
is what a disk that the outbox has filled does not have. Here the log's pages move over a few at a
time, and what has moved is punched out of the log's file.

1. The frames of the log that are whole and committed are found by their checksums, as SQLite does.
   Those of pages that the database's file has already are written there. To do that again changes
   nothing: the log still holds.
2. The log is cut behind its last commit and renamed: from here on it is ours. Each frame in it is
   good; of two of one page the later one is.
3. A frame that is of no use any more has its page number made 0, the older of a page first, and
   each only when what it held is in the database and synced. The blocks that only such frames lie
   in are given back. Then the next pages lengthen the database.
4. When all have moved, the file goes.

A crash at any point leaves what the next start goes on with. Format of the log:
https://sqlite.org/fileformat2.html#the_write_ahead_log
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
import sys
from array import array
from pathlib import Path

from gateway.errors import OutboxError

MOVING = "-moving"  # behind the database's name
BLOCK = 4096
STEP_PAGES = 64
_HEAD_BYTES, _FRAME_BYTES = 32, 24
_MAGIC = 0x377F0682  # or 1 more where the checksums are of big-endian words
_LOCK_AT, _LOCK_BYTES = 0x40000000, 512  # the bytes that SQLite locks
_KEEP_SIZE_PUNCH_HOLE = 3


def take_over(path: Path) -> None:
    """Move what a log has into the database `path`. Raises OutboxError."""
    log, moving = (path.with_name(path.name + end) for end in ("-wal", MOVING))
    if not moving.exists() and not log.exists():
        return
    try:
        db = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            _lock(db, path)
            if not moving.exists():
                _make_ours(db, log, moving)
            _Move(db, moving).all()
            moving.unlink()
            _sync_folder(path.parent)
        finally:
            os.close(db)
    except OutboxError:
        raise
    except OSError as error:
        raise OutboxError(f"{path}: {error.strerror}; its log needs a little room on the disk to "
                          "be taken over") from error


def _lock(db: int, path: Path) -> None:
    try:
        fcntl.lockf(db, fcntl.LOCK_EX | fcntl.LOCK_NB, _LOCK_BYTES, _LOCK_AT)
    except OSError as error:
        raise OutboxError(f"{path}: in use; another gateway runs on it") from error


def _make_ours(db: int, log: Path, moving: Path) -> None:
    page_bytes, pages = _committed(log.read_bytes())
    latest = {page: index for index, page in enumerate(pages)}
    file = os.open(log, os.O_RDWR | os.O_CLOEXEC)
    try:
        have = os.fstat(db).st_size // page_bytes
        for page, index in latest.items():
            if page <= have:
                os.pwrite(db, _page(file, index, page_bytes), (page - 1) * page_bytes)
        os.fsync(db)
        os.ftruncate(file, _HEAD_BYTES + len(pages) * (_FRAME_BYTES + page_bytes))
        os.fsync(file)
    finally:
        os.close(file)
    log.rename(moving)
    _sync_folder(log.parent)


def _committed(data: bytes) -> tuple[int, list[int]]:
    """The bytes of a page, and the page of each frame up to the last commit."""
    if len(data) < _HEAD_BYTES:
        return 1024, []
    magic, _, page_bytes = struct.unpack_from(">III", data)
    swap = bool(magic & 1) != (sys.byteorder == "big")
    sums = _sums((0, 0), data[:24], swap)
    if magic & ~1 != _MAGIC or sums != struct.unpack_from(">II", data, 24):
        return 1024, []
    pages: list[int] = []
    committed = 0
    for at in range(_HEAD_BYTES, len(data) - _FRAME_BYTES - page_bytes + 1,
                    _FRAME_BYTES + page_bytes):
        page, size = struct.unpack_from(">II", data, at)
        start = at + _FRAME_BYTES
        sums = _sums(sums, data[at:at + 8] + data[start:start + page_bytes], swap)
        if data[at + 8:at + 16] != data[16:24] or sums != struct.unpack_from(">II", data, at + 16):
            break
        pages.append(page)
        if size:
            committed = len(pages)
    return page_bytes, pages[:committed]


def _sums(sums: tuple[int, int], data: bytes, swap: bool) -> tuple[int, int]:
    words = array("I", data)
    if swap:
        words.byteswap()
    first, second = sums
    for at in range(0, len(words), 2):
        first = (first + words[at] + second) & 0xFFFFFFFF
        second = (second + words[at + 1] + first) & 0xFFFFFFFF
    return first, second


class _Move:
    """Moves the frames of a log that is ours. Raises OSError."""

    def __init__(self, db: int, moving: Path) -> None:
        self._db, self._file = db, os.open(moving, os.O_RDWR | os.O_CLOEXEC)
        head = os.pread(self._file, _HEAD_BYTES, 0)
        self._page_bytes = struct.unpack_from(">I", head, 8)[0] if len(head) == _HEAD_BYTES else 0
        self._size = self._page_bytes + _FRAME_BYTES
        count = (os.fstat(self._file).st_size - _HEAD_BYTES) // self._size
        if self._page_bytes == 0:  # punched out with the first frames
            raise OSError(errno.EINVAL, "its log has no head")
        self._pages = [int.from_bytes(os.pread(self._file, 4, self._at(n)), "big")
                       for n in range(max(count, 0))]

    def _at(self, index: int) -> int:
        return _HEAD_BYTES + index * self._size

    def all(self) -> None:
        """Move them."""
        try:
            latest = {page: index for index, page in enumerate(self._pages) if page}
            self._drop([index for index, page in enumerate(self._pages)
                        if page and latest[page] != index])
            have = os.fstat(self._db).st_size // self._page_bytes
            rest = sorted(latest)
            self._move([(page, latest[page]) for page in rest if page <= have])
            rest, step = [page for page in rest if page > have], STEP_PAGES
            while rest:
                try:
                    self._move([(page, latest[page]) for page in rest[:step]])
                except OSError as error:
                    if error.errno not in (errno.ENOSPC, errno.EDQUOT) or step == 1:
                        raise
                    step //= 2
                    continue
                del rest[:step]
        finally:
            os.close(self._file)

    def _move(self, frames: list[tuple[int, int]]) -> None:
        for page, index in frames:
            data = _page(self._file, index, self._page_bytes)
            if os.pwrite(self._db, data, (page - 1) * self._page_bytes) != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.fsync(self._db)
        self._drop([index for _, index in frames])

    def _drop(self, indexes: list[int]) -> None:
        """These are of no use any more: say so, then give their blocks back."""
        if not indexes:
            return
        for index in indexes:
            os.pwrite(self._file, bytes(4), self._at(index))
            self._pages[index] = 0
        os.fsync(self._file)
        done = 0
        for index in sorted(indexes):
            if index < done:
                continue
            first = last = index
            while first > 0 and not self._pages[first - 1]:
                first -= 1
            while last + 1 < len(self._pages) and not self._pages[last + 1]:
                last += 1
            done = last + 1
            # not the first block, where the head is
            start = max(BLOCK, (self._at(first) + BLOCK - 1) // BLOCK * BLOCK)
            stop = self._at(last + 1) // BLOCK * BLOCK
            if start < stop:
                _punch(self._file, start, stop - start)


def _page(file: int, index: int, page_bytes: int) -> bytes:
    return os.pread(file, page_bytes,
                    _HEAD_BYTES + index * (_FRAME_BYTES + page_bytes) + _FRAME_BYTES)


def _punch(file: int, at: int, size: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    call = getattr(libc, "fallocate64", libc.fallocate)  # musl's is of 64 bits anyway
    if call(file, _KEEP_SIZE_PUNCH_HOLE, ctypes.c_int64(at), ctypes.c_int64(size)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
