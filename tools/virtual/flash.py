"""The flash chip of a virtual board: one file for what it holds, one for its wear.

The image holds a littlefs in 4096-byte blocks. The counts file has four words (when to lose the
power, how much of that operation is done [1/1000], operations so far, unused) and then each
block's erases. The board writes both; the host arms the cut and reads.
"""

from __future__ import annotations

import struct
from pathlib import Path

BLOCK = 4096
HEAD = 16


class Flash:
    """A chip with `blocks` blocks in the file `image`."""

    def __init__(self, image: Path, blocks: int) -> None:
        self.image = image
        self.counts = image.with_name(image.name + ".wear")
        self.nvs = image.with_name(image.name + ".nvs")
        self.blocks = blocks

    @property
    def exists(self) -> bool:
        """Say whether there is an image."""
        return self.image.exists()

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
        data = self.counts.read_bytes()[HEAD:]
        return list(struct.unpack(f"<{len(data) // 4}I", data))
