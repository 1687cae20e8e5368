"""The flash chip of a virtual board: one file for what it holds, one for its work and wear.

The image holds a littlefs in 4096-byte blocks. The counts file has four words (when to lose the
power, how much of that operation is done [1/1000], writes and erases so far, reads so far), then
each block's erases, then whether it takes its time just now. The board writes both; the host arms
the cut and reads.
"""

from __future__ import annotations

import fcntl
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tools.board_errors import LinkError

BLOCK = 4096
HEAD = 16


@dataclass(frozen=True)
class Costs:
    """What a read of any length, and an erase of one block, take of the board's time [ms].

    By default as an ESP32's chip: a read takes 0.08 to 0.11 ms by Espressif's figures, an erase
    45 to 90. Writes are counted and cost nothing.
    """

    read_ms: float = 0.1
    erase_ms: float = 50.0


CHIP = Costs()
FREE = Costs(0, 0)


@dataclass(frozen=True)
class Work:
    """What the chip has done; the later less the earlier is what was done in between."""

    reads: int
    erases: int

    def __sub__(self, earlier: Self) -> Work:
        return Work(self.reads - earlier.reads, self.erases - earlier.erases)

    def ms(self, costs: Costs = CHIP) -> float:
        """Give the time that it takes on a chip with these costs [ms]."""
        return self.reads * costs.read_ms + self.erases * costs.erase_ms


class ImageError(LinkError):
    """The image's file cannot be used. One line."""


class Flash:
    """A chip with `blocks` blocks in the file `image`."""

    def __init__(self, image: Path, blocks: int, costs: Costs = CHIP) -> None:
        self.image = image
        self.counts = image.with_name(image.name + ".wear")
        self.nvs = image.with_name(image.name + ".nvs")
        self.blocks = blocks
        self.costs = costs
        self._lock = -1

    def take(self) -> None:
        """Let no other virtual board use the image until `release`. Raises ImageError.

        The kernel frees the lock when its holder dies, however it dies.
        """
        try:
            self.image.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(self.image, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ImageError(f"{self.image}: {error.strerror}") from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(lock)
            raise ImageError(f"{self.image}: in use by another virtual board") from error
        self._lock = lock

    def release(self) -> None:
        """Let others use the image; harmless when they may."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    @property
    def exists(self) -> bool:
        """Say whether there is an image; a file that was only locked so far is empty."""
        return self.image.exists() and self.image.stat().st_size > 0

    def erase(self) -> None:
        """Make an empty chip; the wear so far is kept."""
        self.image.parent.mkdir(parents=True, exist_ok=True)
        with self.image.open("wb") as file:
            file.write(b"\xff" * 2 * BLOCK)
            file.truncate(self.blocks * BLOCK)
        if not self.counts.exists():
            self.counts.write_bytes(bytes(HEAD + 4 * self.blocks))
        self.nvs.unlink(missing_ok=True)

    def arm(self, operations: int, part: float) -> None:
        """Cut the power in the `operations`-th write or erase from now.

        part: how much of it is done by then, 0 (nothing) to 1 (nearly all).
        """
        done = min(999, max(0, round(part * 1000)))
        with self.counts.open("r+b") as file:
            head = file.read(HEAD)
            at = struct.unpack("<4I", head)[2] + operations
            file.seek(0)
            file.write(struct.pack("<2I", at, done))

    def disarm(self) -> None:
        """Cut no power."""
        with self.counts.open("r+b") as file:
            file.write(bytes(8))

    def operations(self) -> int:
        """Count writes and erases so far."""
        return int(struct.unpack("<4I", self.counts.read_bytes()[:HEAD])[2])

    def erases(self) -> list[int]:
        """Give each block's erases so far."""
        data = self.counts.read_bytes()[HEAD : HEAD + 4 * self.blocks]
        return list(struct.unpack(f"<{len(data) // 4}I", data))

    def work(self) -> Work:
        """Count reads and erases so far."""
        data = self.counts.read_bytes()
        return Work(int(struct.unpack_from("<I", data, 12)[0]), sum(self.erases()))

    def busy(self) -> bool:
        """Say whether a read or an erase takes its time just now."""
        return any(self.counts.read_bytes()[HEAD + 4 * self.blocks :])
