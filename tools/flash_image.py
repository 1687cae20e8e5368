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
FAILED = "\N{CROSS MARK}"  # how mpflash begins what went wrong

# What esptool says, and what it means for the person at the cable. First match.
REASONS = (
    (r"Lost connection|reports readiness|disconnected|Input/output error|write failed",
     "the board went away; is the cable in? Its image is not whole: write it again"),
    (r"This chip is (\S+?), not", "the chip is {1}; choose another board with --board"),
    (r"No such file or directory", "no such port; `tidegate board list` shows what is plugged in"),
    (r"Permission denied", "no permission; add yourself to the group dialout"),
    (r"exclusively lock|[Rr]esource temporarily|port is busy",
     "the port is in use by another program; close it and try again"),
    (r"No serial data received|Failed to connect|Wrong boot mode",
     "the chip does not answer; hold BOOT, press RESET, and try again"),
    (r"will not fit|doesn't fit|does not fit", "the image does not fit this board's flash"),
    (r"MD5 of file|written flash region",
     "what was written reads back wrong; its flash may be worn out"),
)  # fmt: skip


class ImageError(LinkError):
    """The image is not on the board. One line."""


def look(image: Path) -> tuple[int, bytes]:
    """Give a file's size and first byte. Raises ImageError where it is not there or empty."""
    try:
        size = image.stat().st_size
        with image.open("rb") as file:
            first = file.read(1)
    except OSError as error:
        raise ImageError(f"{image}: {error.strerror}") from error
    if not first:
        raise ImageError(f"{image}: the file is empty")
    return size, first


def check(image: Path, board: Board) -> None:
    """Say no to a file that cannot be an image for this board."""
    size, first = look(image)
    if first != bytes([MAGIC]):
        raise ImageError(f"{image}: not an image for an ESP32 (its first byte is not 0xE9)")
    room = board.flash_mb * 1024 * 1024 - board.image_offset
    if size > room:
        raise ImageError(f"{image}: {size} bytes do not fit {board.name}, which has {room}")


def newest(folder: Path, image: str) -> Path | None:
    """Give the newest released image of that name; its variants (-SPIRAM) have other names."""
    name = re.compile(rf"{re.escape(image)}(?:-\d{{8}})?-v(\d+)\.(\d+)(?:\.(\d+))?\.bin")
    found = [
        ([int(number or 0) for number in match.groups()], path)
        for path in folder.rglob(f"{image}*.bin")
        if (match := name.fullmatch(path.name))
    ]
    return max(found)[1] if found else None


def find(board: Board) -> Path:
    """Have mpflash download the newest image for this board. Raises ImageError.

    mpflash ends with 0 whether it found one or not, so what counts is what lies in its folder.
    """
    here = str(Path(sys.executable).parent)
    program = shutil.which("mpflash", path=here + os.pathsep + os.environ.get("PATH", ""))
    if program is None:
        raise ImageError(
            f"no image: download {board.image} from MicroPython's site and give its path with "
            "--file, or `pip install mpflash`, which finds it"
        )
    folder = cachedir.root() / "images"
    folder.mkdir(parents=True, exist_ok=True)
    try:
        done = subprocess.run(
            [program, "download", "--board", board.image, "--version", "stable"],
            env={**os.environ, "MPFLASH_FIRMWARE": str(folder), "COLUMNS": "400", "NO_COLOR": "1"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=LIMIT_S,
            check=False,
        )
        said = done.stdout + done.stderr
    except (OSError, subprocess.TimeoutExpired) as error:
        said = f"{FAILED} {error}"
    image = newest(folder, board.image)
    if image is None:
        wrong = [line.partition(FAILED)[2].strip() for line in said.splitlines() if FAILED in line]
        why = wrong[-1] if wrong else "it does not say why"
        raise ImageError(
            f"mpflash found no image {board.image} ({why}); download it and give its path "
            "with --file"
        )
    return image


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
) -> Path | None:
    """Write the image; gives its file, None for a virtual board's. progress: gets percent.

    Before anything is written the chip is compared with the board file, by esptool. Raises
    ImageError, ControlError.
    """
    if image is not None:
        look(image)
    virtual = control.find(port)
    if virtual is not None:
        virtual.do("image")
        progress(100.0)
        return None
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
    return image
