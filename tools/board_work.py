"""How long a board may say nothing, reckoned from its work: files, steps that write, bytes read.

With MicroPython's cache of 128 bytes littlefs reads the flash 800 to 2000 times to rename a file,
and up to 16,583 times to find free blocks, both counted on the official image; an ESP32 reads in
0.1 ms, its emulator in 0.2 ms.
"""

from __future__ import annotations

SLACK_S = 10.0  # for the way there and back, and a host that is busy
READ_S = 0.0005
FILE_READS = 2000  # to find, open, remove or rename one file
ROOM_READS = 20_000  # to look for free blocks, which any step that writes may have to
ERASE_S = 0.4  # the longest that data sheets allow for a block
READ_BYTES = 64  # of one read, where a file is read through


def limit_s(*, files: int = 1, writes: int = 0, size_bytes: int = 0) -> float:
    """Give the longest silence [s].

    files: that are looked up, opened, removed or renamed; writes: steps that may need a free
    block; size_bytes: how much of files is read.
    """
    reads = files * FILE_READS + writes * ROOM_READS + size_bytes / READ_BYTES
    return SLACK_S + reads * READ_S + 2 * writes * ERASE_S
