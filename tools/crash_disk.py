"""What a disk may hold after a power cut: rebuilt from a record of writes and syncs. Pure.

The record is strace's. Rules of the model, as POSIX has them and disks keep them:
- What was written before a file's last fsync or fdatasync is there.
- What was written since is there or not, each 512-byte sector by itself, in any order.
- A write to a file opened with O_DSYNC is a write and a sync.
- A file created or unlinked since its folder's last sync is there or not.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

SECTOR = 512
CALLS = "pwrite64,write,ftruncate,fsync,fdatasync,unlink,openat,rename"
Survival = Literal["nothing", "all", "first", "some", "sectors"]
SURVIVALS: tuple[Survival, ...] = ("nothing", "all", "first", "some", "sectors")
"""What of the writes since the last sync survives: nothing, all, the first of them and half of
the next, some whole ones, some sectors."""

_CALL = re.compile(r"(?:\d+ +)?(\w+)\((.*)\) += (-?\d+)")
_FD = re.compile(r"\d+<([^>]*)>")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')


@dataclass(frozen=True, slots=True)
class Call:
    """One system call that worked: write (at, data), truncate (at), sync, unlink, create, mark."""

    kind: Literal["write", "truncate", "sync", "unlink", "create", "mark"]
    path: str
    at: int = 0
    data: bytes = b""


def _plain(escaped: str) -> bytes:
    return bytes.fromhex(escaped.replace("\\x", ""))


def read_trace(lines: Iterator[str], folder: Path) -> Iterator[Call]:
    """Read the output of `strace -y -xx`: what concerns `folder`; `mark` is a write to *.marks.

    Raises ValueError at what the model does not know.
    """
    synced: set[str] = set()  # descriptors whose every write is
    for line in lines:
        found = _CALL.match(line)
        if not found or int(found[3]) < 0:
            continue
        name, args = found[1], found[2]
        texts = [_plain(text) for text in _TEXT.findall(args)]
        at_fd = _FD.match(args)
        path = _plain(at_fd[1]).decode() if at_fd else texts[0].decode()
        if name == "openat":
            path = texts[0].decode()
            synced.discard(found[3])
            if "O_DSYNC" in args:
                synced.add(found[3])
            if "O_CREAT" not in args:
                continue
        if not path.startswith(str(folder)):
            continue
        if name == "write" and path.endswith(".marks"):
            yield Call("mark", path, data=texts[0])
        elif path.endswith(".marks"):
            continue
        elif name == "pwrite64":
            size, at = args.rsplit(", ", 2)[-2:]
            if len(texts[0]) != int(size) or int(found[3]) != int(size):
                raise ValueError(f"a write in part: {line[:80]}")
            yield Call("write", path, int(at), texts[0])
            if args.partition("<")[0] in synced:
                yield Call("sync", path)
        elif name == "ftruncate":
            yield Call("truncate", path, int(args.rsplit(", ", 1)[1]))
        elif name in ("fsync", "fdatasync"):
            yield Call("sync", path)
        elif name == "unlink":
            yield Call("unlink", path)
        elif name == "openat":
            yield Call("create", path)
        else:
            raise ValueError(f"not in the model: {line[:80]}")


@dataclass(slots=True)
class _File:
    safe: bytearray = field(default_factory=bytearray)
    since: list[Call] = field(default_factory=list)
    there: bool = False  # surely, as of the folder's last sync
    linked: bool = True  # now


def _apply(content: bytearray, call: Call) -> None:
    if call.kind == "truncate":
        del content[call.at:]
        content.extend(bytes(call.at - len(content)))
        return
    if len(content) < call.at:
        content.extend(bytes(call.at - len(content)))
    content[call.at : call.at + len(call.data)] = call.data


class Disk:
    """The files of one folder, as they surely are and as they may be."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._files: dict[str, _File] = {}

    def do(self, call: Call) -> None:
        """Take over a system call."""
        if call.kind == "sync" and call.path == self._folder:
            for path, file in list(self._files.items()):
                file.there = file.linked
                if not file.linked:
                    del self._files[path]
            return
        known = self._files.get(call.path)
        if call.kind == "create" and known is not None and known.linked:
            return
        if known is None or (call.kind == "create" and not known.linked):
            # the unlinked one may come back in its place; the new one is what matters here
            known = self._files[call.path] = _File(there=known is not None and known.there)
        file = known
        if call.kind == "sync":
            for one in file.since:
                _apply(file.safe, one)
            file.since.clear()
        elif call.kind == "unlink":
            file.linked = False
        elif call.kind in ("write", "truncate"):
            file.since.append(call)

    def after_power_cut(self, target: Path, survival: Survival, rng: random.Random) -> None:
        """Write into `target` the files as they may be now."""
        for path, file in self._files.items():
            if file.there != file.linked:
                if survival == "nothing":
                    linked = file.there
                else:
                    linked = file.linked if survival == "all" else rng.random() < 0.5
            else:
                linked = file.linked
            if linked:
                content = bytearray(file.safe)
                for call in survivors(file.since, survival, rng):
                    _apply(content, call)
                (target / Path(path).name).write_bytes(content)

    @property
    def unsafe(self) -> int:
        """How many calls may be lost."""
        return sum(len(file.since) + (file.there != file.linked) for file in self._files.values())


def survivors(calls: list[Call], survival: Survival, rng: random.Random) -> list[Call]:
    """Choose what is left of these writes."""
    match survival:
        case "nothing":
            return []
        case "all":
            return calls
        case "first":
            cut = rng.randrange(len(calls) + 1)
            left = calls[:cut]
            if cut < len(calls) and calls[cut].kind == "write":
                last = calls[cut]
                left.append(Call("write", last.path, last.at, last.data[: len(last.data) // 2]))
            return left
        case "some":
            return [call for call in calls if rng.random() < 0.5]
    return [part for call in calls for part in _sectors(call) if rng.random() < 0.5]


def _sectors(call: Call) -> Iterator[Call]:
    if call.kind != "write":
        yield call
        return
    start, end = call.at, call.at + len(call.data)
    at = start
    while at < end:
        stop = min(end, (at // SECTOR + 1) * SECTOR)
        yield Call("write", call.path, at, call.data[at - start : stop - start])
        at = stop
