"""The two slots of a board, `/a` and `/b`: which of them runs, and filling the one that does not.

boot.py takes the slot that NVS names, and the other if that one is not whole. A slot is whole once
its manifest ends with its mark. The manifest is the first that goes when a slot is to be written,
and the last that comes; so a slot that is whole holds what its manifest says.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from dataclasses import dataclass

from tools import board_code
from tools.board_errors import FullError, WornError
from tools.board_link import BoardLink
from tools.board_work import limit_s
from tools.cachedir import Say
from tools.firmware import MANIFEST, SLOTS, manifest

BLOCK = 4096
ROOM_BYTES = 16384  # littlefs needs some for itself


@dataclass(frozen=True)
class Slots:
    """What boot.py finds. chosen: by NVS, None where it says nothing; whole: those that are."""

    chosen: str | None
    whole: tuple[str, ...]

    @property
    def runs(self) -> str | None:
        """Give the slot that boot.py takes, None where neither is whole."""
        if self.chosen in self.whole:
            return self.chosen
        return next(iter(self.whole), None)

    @property
    def spare(self) -> str:
        """Give the slot that may be written."""
        return next(slot for slot in SLOTS if slot != self.runs)


@dataclass
class Filled:
    """What was done to a slot. copied, removed: paths on the board."""

    copied: list[str]
    removed: list[str]


def _mark(slot: str) -> str:
    return f"{slot}/{MANIFEST}"


def look(link: BoardLink) -> Slots:
    """Ask the board for its slots."""
    code = board_code.SLOTS.format(manifests=[_mark(slot) for slot in SLOTS])
    number, *whole = ast.literal_eval(link.run(code, limit_s(files=2)).strip())
    return Slots(
        SLOTS[number] if number in range(len(SLOTS)) else None,
        tuple(slot for slot, is_whole in zip(SLOTS, whole, strict=True) if is_whole),
    )


def choose(link: BoardLink, slot: str) -> None:
    """Let boot.py take this slot from the next start on: one NVS commit."""
    link.run(board_code.CHOOSE.format(slot=SLOTS.index(slot)), limit_s(writes=1))


def holds(link: BoardLink, slot: str, release: Mapping[str, bytes]) -> bool:
    """Say whether a slot holds this release and nothing else, as the board reads it."""
    if link.differing({_mark(slot): manifest(release)}):
        return False
    files = _placed(slot, release)
    return set(link.tree(slot)) == {*files, _mark(slot)} and not link.differing(files)


def fill(link: BoardLink, slot: str, release: Mapping[str, bytes], say: Say) -> Filled:
    """Let a slot that does not run hold this release, and be whole. Raises LinkError."""
    files, mark = _placed(slot, release), _mark(slot)
    wrong = link.differing(files)
    stale = [path for path in link.tree(slot) if path not in files and path != mark]
    if not wrong and not stale and not link.differing({mark: manifest(release)}):
        return Filled([], [])
    _need_room(link, [len(files[path]) for path in wrong])
    link.remove([mark])
    removed = link.remove(stale)
    link.prune(slot)
    link.mkdirs(folders([*files, mark]))
    try:
        _write(link, {path: files[path] for path in wrong}, say)
        _write(link, {mark: manifest(release)}, say)
    except FullError:  # the ring needs the room
        link.remove([*files, mark])
        raise
    return Filled(sorted(wrong), sorted(removed))


def _placed(slot: str, release: Mapping[str, bytes]) -> dict[str, bytes]:
    return {f"{slot}/{path}": data for path, data in release.items()}


def folders(paths: list[str]) -> list[str]:
    """List the folders that these files need, parents first."""
    found = set()
    for path in paths:
        parts = path.strip("/").split("/")[:-1]
        found |= {"/" + "/".join(parts[: depth + 1]) for depth in range(len(parts))}
    return sorted(found)


def _need_room(link: BoardLink, sizes: list[int]) -> None:
    need = sum((size // BLOCK + 1) * BLOCK for size in sizes) + ROOM_BYTES
    room = link.free_bytes()
    if room < need:
        raise FullError(
            f"{link.port}: {room // 1024} KB are free on the board, {need // 1024} KB are needed; "
            "`tidegate board erase` makes room"
        )


def _write(link: BoardLink, files: Mapping[str, bytes], say: Say) -> None:
    """Write files in place and compare them as the board reads them, those that differ twice."""
    wrong = list(files)
    for _ in range(2):
        for number, path in enumerate(wrong, 1):
            say(f"{number} of {len(wrong)}  {path}  {len(files[path])} bytes")
            link.write(path, files[path])
        wrong = link.differing({path: files[path] for path in wrong})
        if not wrong:
            return
    raise WornError(link.port, wrong[0])
