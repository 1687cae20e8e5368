"""Whether a result can be written, asked before the work and not after it."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def reason(error: OSError) -> str:
    """Say in words why a file could not be used."""
    return error.strerror or str(error)


def make_folder(folder: Path) -> None:
    """Make a folder that can be written into. Raises OSError."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=folder):
        pass


def check_file(file: Path) -> None:
    """See whether a file can be written, and leave what is there as it is. Raises OSError."""
    if file.exists():
        os.close(os.open(file, os.O_WRONLY))
    else:
        with tempfile.TemporaryFile(dir=file.absolute().parent):
            pass
