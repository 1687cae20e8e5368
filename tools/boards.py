"""The board files: what each board is, read from `boards/<name>.toml`.

Adding a board is adding a file; nothing here knows any of them.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / "boards"
KEYS = frozenset(
    """name chip flash_mb image image_offset heap_kb
    pins led button usb features notes""".split()  # noqa: SIM905 - reads better as words
)


class BoardError(ValueError):
    """A board file that is not there or not right. Names file and key."""


@dataclass(frozen=True)
class Board:
    """One kind of board.

    id: its file's name; pins: GPIO number by printed name; led: GPIO and whether it lights at a
    low level; usb: (vendor, product) ids of its USB port; heap_kb [KiB]: the Python heap that the
    firmware may count on at start; image_offset: where the image begins in flash [bytes].
    """

    id: str
    name: str
    chip: str
    flash_mb: int
    image: str
    image_offset: int
    heap_kb: int
    pins: Mapping[str, int]
    led: tuple[int, bool] | None = None
    led_kind: str = ""
    button: int | None = None
    usb: tuple[tuple[int, int], ...] = ()
    features: frozenset[str] = frozenset()
    notes: Mapping[str, str] = field(default_factory=dict)

    @property
    def filesystem_blocks(self) -> int:
        """Give the size of the file system in 4096-byte blocks: what the image leaves free."""
        free = self.flash_mb * 1024 * 1024 - (2 << 20)
        return max(free, 2 << 20) // 4096


def _get(data: Mapping[str, Any], file: str, key: str, kind: type, default: Any = None) -> Any:
    value = data.get(key, default)
    if not isinstance(value, kind) or isinstance(value, bool):
        raise BoardError(f"{file}: {key} = {value!r}: a value of type {kind.__name__} is needed")
    return value


def _usb(file: str, ids: list[Any]) -> tuple[tuple[int, int], ...]:
    try:
        pairs = [str(text).split(":") for text in ids]
        return tuple((int(vendor, 16), int(product, 16)) for vendor, product in pairs)
    except ValueError as error:
        raise BoardError(f'{file}: usb = {ids!r}: pairs like "10c4:ea60" are needed') from error


def parse(text: str, board_id: str) -> Board:
    """Read one board file's text. Raises BoardError."""
    file = f"{board_id}.toml"
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BoardError(f"{file}: {error}") from error
    for key in data:
        if key not in KEYS:
            raise BoardError(f"{file}: {key}: no such key; there are {', '.join(sorted(KEYS))}")
    led = _get(data, file, "led", dict, {})
    return Board(
        id=board_id,
        name=_get(data, file, "name", str),
        chip=_get(data, file, "chip", str),
        flash_mb=_get(data, file, "flash_mb", int),
        image=_get(data, file, "image", str),
        image_offset=_get(data, file, "image_offset", int),
        heap_kb=_get(data, file, "heap_kb", int),
        pins=_get(data, file, "pins", dict),
        led=(int(led["pin"]), bool(led.get("low", False))) if "pin" in led else None,
        led_kind=str(led.get("kind", "plain" if led else "")),
        button=data.get("button"),
        usb=_usb(file, _get(data, file, "usb", list, [])),
        features=frozenset(_get(data, file, "features", list, [])),
        notes=_get(data, file, "notes", dict, {}),
    )


def names(folder: Path = FOLDER) -> list[str]:
    """List the boards there are."""
    return sorted(path.stem for path in folder.glob("*.toml"))


def load(board_id: str, folder: Path = FOLDER) -> Board:
    """Read a board by its file's name, or by how only one begins. Raises BoardError."""
    path = folder / f"{board_id}.toml"
    begins = [name for name in names(folder) if name.startswith(board_id)]
    if not path.is_file() and len(begins) == 1:
        path = folder / f"{begins[0]}.toml"
    if not path.is_file():
        raise BoardError(f"no board {board_id!r}; there are: {', '.join(names(folder))}")
    return parse(path.read_text(), path.stem)


def fitting(vendor: int | None, product: int | None, folder: Path = FOLDER) -> list[Board]:
    """List the boards whose USB port has these ids."""
    boards = (load(name, folder) for name in names(folder))
    return [board for board in boards if (vendor, product) in board.usb]
