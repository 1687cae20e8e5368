"""Write the MicroPython image onto a board: by esptool; a virtual board does it itself."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tools import cachedir
from tools.board_errors import LinkError
from tools.boards import Board
from tools.virtual import control

MAGIC = 0xE9  # the first byte of every image for the ESP32 family
PROGRESS = re.compile(r"\((\d+) ?%\)|(\d+(?:\.\d+)?)%")
LIMIT_S = 300

# What esptool says, and what it means for the person at the cable. First match.
REASONS = (
    (r"This chip is (\S+?), not", "the chip is {1}; choose another board with --board"),
    (r"No such file or directory", "no such port; `tidegate board list` shows what is plugged in"),
    (r"Permission denied", "no permission; add yourself to the group dialout"),
    (r"exclusively lock|[Rr]esource temporarily|port is busy",
     "the port is in use by another program; close it and try again"),
    (r"No serial data received|Failed to connect|Wrong boot mode",
     "the chip does not answer; hold BOOT, press RESET, and try again"),
    (r"reports readiness|disconnected|Input/output error|write failed",
     "the board went away; is the cable in? Its image is not whole: write it again"),
    (r"will not fit|doesn't fit|does not fit", "the image does not fit this board's flash"),
    (r"[Hh]ash of data|[Vv]erif", "what was written reads back wrong; its flash may be worn out"),
)  # fmt: skip


class ImageError(LinkError):
    """The image is not on the board. One line."""


def check(image: Path, board: Board) -> None:
    """Say no to a file that cannot be an image for this board."""
    try:
        size = image.stat().st_size
        with image.open("rb") as file:
            first = file.read(1)
    except OSError as error:
        raise ImageError(f"{image}: {error.strerror}") from error
    if first != bytes([MAGIC]):
        raise ImageError(f"{image}: not an image for an ESP32 (its first byte is not 0xE9)")
    room = board.flash_mb * 1024 * 1024 - board.image_offset
    if size > room:
        raise ImageError(f"{image}: {size} bytes do not fit {board.name}, which has {room}")


def find(board: Board) -> Path:
    """Have mpflash download the newest image for this board. Raises ImageError."""
    program = shutil.which("mpflash")
    if program is None:
        raise ImageError(
            f"no image given: download {board.image} from MicroPython's site and give its path, "
            "or install mpflash, which finds it"
        )
    folder = cachedir.root() / "images"
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [program, "download", "--board", board.image, "--version", "stable", "--dir", str(folder)],
        check=False,
    )
    images = [path for path in folder.rglob(f"{board.image}*.bin") if "app-bin" not in path.name]
    if not images:
        raise ImageError(f"mpflash found no image {board.image}")
    return max(images, key=lambda path: path.stat().st_mtime)


def explain(output: str) -> str:
    """Give the one line that says why esptool failed."""
    for pattern, meaning in REASONS:
        found = re.search(pattern, output)
        if found:
            return meaning.replace("{1}", found[1] if found.groups() else "")
    lines = [line for line in output.splitlines() if line.strip()]
    return lines[-1] if lines else "esptool failed and does not say why"


def command(port: str, board: Board, image: Path, *, erase: bool) -> list[str]:
    """Give the esptool command line."""
    words = [sys.executable, "-m", "esptool", "--chip", board.chip, "--port", port]
    words += ["--baud", "460800", "write-flash"]
    if erase:
        words.append("--erase-all")
    return [*words, f"{board.image_offset:#x}", str(image)]


def write(
    port: str,
    board: Board,
    image: Path | None,
    *,
    erase: bool = True,
    progress: Callable[[float], None] = lambda _percent: None,
) -> None:
    """Write the image; progress: gets percent. Raises ImageError, ControlError.

    Before anything is written the chip is compared with the board file, by esptool.
    """
    virtual = control.find(port)
    if virtual is not None:
        virtual.do("image")
        progress(100.0)
        return
    if "virtual" in board.features:
        raise ImageError(f"{port}: no virtual board runs there; tidegate board virtual starts one")
    image = image or find(board)
    check(image, board)
    with subprocess.Popen(
        command(port, board, image, erase=erase),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        env={**os.environ, "COLUMNS": "400"},
    ) as child:
        assert child.stdout
        said = ""
        for line in child.stdout:
            said += line
            found = PROGRESS.search(line)
            if found:
                progress(float(found[1] or found[2]))
        if child.wait(timeout=LIMIT_S):
            raise ImageError(f"{port}: {explain(said)}")
    progress(100.0)
