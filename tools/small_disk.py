"""A small disk of our own: mounted for a while, in the mount namespace that the caller is in."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PROGRAMS = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"


class DiskError(Exception):
    """There can be no such disk on this machine; nothing follows from that."""


@contextmanager
def small_disk(work: Path, kind: str, size_bytes: int) -> Iterator[Path]:
    """Mount a tmpfs of that size, or a file of that size with a file system of that kind (ext4,
    f2fs), in the folder `work`; yield where it is. Raises DiskError."""
    disk = work / "disk"
    disk.mkdir()
    if kind == "tmpfs":
        _do("mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(disk))
    else:
        image = work / "disk.img"
        with image.open("wb") as file:
            file.truncate(size_bytes)
        _do(f"mkfs.{kind}", *(["-q"] if kind == "ext4" else []), str(image))
        _do("mount", "-o", "loop", str(image), str(disk))
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=False)


def _do(program: str, *args: str) -> None:
    found = shutil.which(program, path=PROGRAMS)
    if found is None:
        raise DiskError(f"no {program} on this machine")
    done = subprocess.run([found, *args], capture_output=True, text=True, check=False)
    if done.returncode:
        raise DiskError(f"{program}: {done.stderr.strip()[-200:]}")
