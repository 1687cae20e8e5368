"""The project's own cache: what was fetched once and is never half there."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

Say = Callable[[str], None]


def silent(_line: str) -> None:
    """Say nothing: the default listener for progress lines."""


def root() -> Path:
    """Give the cache's folder: TIDEGATE_CACHE, or `.cache` beside this project's `tools`."""
    override = os.environ.get("TIDEGATE_CACHE")
    if override:
        return Path(override).absolute()
    return Path(__file__).resolve().parent.parent / ".cache"


@contextmanager
def locked(name: str) -> Iterator[None]:
    """Hold the cache's lock `name`: two processes never fetch the same thing at once."""
    root().mkdir(parents=True, exist_ok=True)
    with (root() / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def once(name: str, make: Callable[[Path], None]) -> Path:
    """Give the folder `name` of the cache, made by `make(empty_folder)` where it is not there.

    The folder is made under another name and renamed when `make` returned, so one that was
    broken off is never taken for a whole one.
    """
    folder = root() / name
    if folder.is_dir():
        return folder
    with locked(name):
        if folder.is_dir():
            return folder
        work = Path(tempfile.mkdtemp(prefix=f"{name}.part-", dir=root()))
        try:
            work.chmod(0o755)
            make(work)
            work.rename(folder)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return folder
