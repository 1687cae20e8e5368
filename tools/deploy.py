"""Put the firmware onto a board: what changed, checked, and in force all at once or not at all.

Rules, so that a board whose cable is pulled at any moment still boots, old firmware or new:

    1. each changed file is written under its name with `.new` behind it, and its hash, as the
       board reads it, is compared;
    2. `/swap.py`, which says what to rename and what to remove, is written the same way; its
       own renaming is the one moment at which the new firmware comes into force;
    3. the board runs it: it renames and removes, which may be repeated, and removes itself last.
       If the power goes in the middle, boot.py runs it again.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tools import firmware, interpreter
from tools.board_errors import FullError, LinkError
from tools.board_link import BoardLink
from tools.boards import Board

OLDEST = (1, 23, 0)
MPY_VERSION = 6
ALIVE_S = 30.0
ROOM_BYTES = 16384  # littlefs needs some for itself
SWAP = "swap.py"
# What the number in sys.implementation._mpy means.
NATIVE = (
    "", "x86", "x64", "armv6", "armv6m", "armv7m", "armv7em", "armv7emsp", "armv7emdp",
    "xtensa", "xtensawin", "rv32imc", "rv64imc",
)  # fmt: skip
IN_IMAGE = {
    "dht11": ("dht",),
    "dht22": ("dht",),
    "ds18b20": ("onewire", "ds18x20"),
}
_ALIVE = re.compile(r"^tidegate (\S+) (\S+) life (\w+) boot (\d+)")

_COMPLAINT = re.compile(r"^(sensor \S+ not usable|safe mode)")

_SWAP = """# Ends a deploy that was cut off: see tools/deploy.py. Removes itself.
import os
for p in {new!r}:
    try:
        os.rename(p + '.new', p)
    except OSError as e:
        if e.args[0] != 2:  # not there: done before. Else boot.py says it and tries again
            raise
for p in {old!r}:
    try:
        os.remove(p)
    except OSError as e:
        if e.args[0] != 2:
            raise
os.remove('/swap.py')
"""


class DeployError(LinkError):
    """The board cannot take this firmware. One line."""


@dataclass
class Deployed:
    """What was done. copied, removed: paths on the board; alive: what it said when it started."""

    copied: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    kept: int = 0
    bytes: int = 0
    alive: str = ""


def digest(content: bytes) -> str:
    """Give the hash by which files are compared."""
    return hashlib.sha256(content).hexdigest()


def check_board(link: BoardLink, board: Board | None) -> str:
    """Say no to a chip or an interpreter that does not fit; gives its native architecture."""
    info = link.info()
    if info.version < OLDEST:
        have, want = (".".join(map(str, v)) for v in (info.version, OLDEST[:2]))
        raise DeployError(
            f"{link.port}: MicroPython {have} is too old, {want} or later is needed; "
            "`tidegate board image` writes one"
        )
    if info.mpy & 0xFF != MPY_VERSION:
        raise DeployError(
            f"{link.port}: this MicroPython reads .mpy version {info.mpy & 0xFF}, "
            f"mpy-cross here writes {MPY_VERSION}"
        )
    virtual = info.platform == "linux"
    if board is not None and not virtual and info.chip != board.chip:
        raise DeployError(
            f"{link.port}: this is {info.chip or info.machine}, "
            f"and {board.name} has {board.chip}; choose another with --board"
        )
    number = (info.mpy >> 10) & 0x3F
    return NATIVE[number] if number < len(NATIVE) else ""


def contents(link: BoardLink, kinds: list[str], march: str) -> dict[str, bytes]:
    """Give what this board needs: the firmware, and what its image lacks for these sensors."""
    files = {"/" + path: data for path, data in firmware.collect(march=march).items()}
    if link.where("umqtt.simple") != "":
        source = interpreter.umqtt_simple() / "umqtt" / "simple.py"
        name = "umqtt/simple.py"
        files["/lib/umqtt/simple.mpy"] = firmware.compile_source(source.read_bytes(), name)
    for kind in sorted(set(kinds)):
        for module in IN_IMAGE.get(kind, ()):
            if link.where(module) is None:
                raise DeployError(
                    f"{link.port}: this image has no {module}, which {kind} needs; "
                    "write an official one with `tidegate board image`"
                )
    return files


def _parents(paths: list[str]) -> list[str]:
    """List the folders that these files need, parents first."""
    found: dict[str, None] = {}
    for path in paths:
        parts = path.strip("/").split("/")[:-1]
        for depth in range(len(parts)):
            found["/" + "/".join(parts[: depth + 1])] = None
    return sorted(found)


def stale(link: BoardLink, files: Mapping[str, bytes]) -> list[str]:
    """List files in the firmware's own folders that it no longer has."""
    folders = {"/" + path.split("/")[1] for path in files if path.count("/") > 1} - {"/lib"}
    there = [path for folder in sorted(folders) for path in link.tree(folder)]
    return [path for path in there if path not in files]


def _stage(
    link: BoardLink,
    path: str,
    content: bytes,
    progress: Callable[[str, int], None],
) -> None:
    """Write one file under its `.new` name and compare what the board reads back."""
    for _ in range(2):
        link.write(path + ".new", content, lambda step: progress(path, step))
        if link.hashes([path + ".new"])[path + ".new"] == digest(content):
            return
    raise DeployError(f"{link.port}: {path} reads back wrong twice; its flash may be worn out")


def nothing(_path: str, _step: int) -> None:
    """Show no progress."""


def put(
    link: BoardLink,
    files: Mapping[str, bytes],
    *,
    remove: list[str] | None = None,
    progress: Callable[[str, int], None] = nothing,
    total: Callable[[int], None] | None = None,
) -> Deployed:
    """Bring files onto the board, all at once; paths begin with a slash.

    progress: gets path and bytes of each step; total: gets the bytes to come. Raises LinkError.
    """
    there = link.hashes(list(files))
    changed = {path: data for path, data in files.items() if there[path] != digest(data)}
    done = Deployed(sorted(changed), sorted(remove or []), len(files) - len(changed))
    done.bytes = sum(map(len, changed.values()))
    if not changed and not remove:
        return done
    need = sum((len(data) // 4096 + 1) * 4096 for data in changed.values()) + ROOM_BYTES
    room = link.free_bytes()
    if room < need:
        raise FullError(
            f"{link.port}: {room // 1024} KB are free on the board, {need // 1024} KB are needed; "
            "`tidegate board erase` makes room"
        )
    if total:
        total(done.bytes)
    link.mkdirs(_parents(list(changed)))
    try:
        for path, content in changed.items():
            _stage(link, path, content, progress)
        swap = _SWAP.format(new=sorted(changed), old=done.removed).encode()
        _stage(link, "/" + SWAP, swap, nothing)
    except FullError:
        leftovers = [path + ".new" for path in [*changed, "/" + SWAP]]
        link.run(_SWAP.format(new=[], old=leftovers).replace("os.remove('/swap.py')", ""))
        raise
    link.run(f"import os\nos.rename('/{SWAP}.new', '/{SWAP}')\nexecfile('/{SWAP}')")
    wrong = [
        path for path, have in link.hashes(list(files)).items() if have != digest(files[path])
    ]
    if wrong:
        raise DeployError(f"{link.port}: {wrong[0]} reads back wrong")
    return done


def wait_alive(link: BoardLink, timeout_s: float = ALIVE_S) -> str:
    """Start the firmware and give its first words; LinkError where it does not come up.

    What it says before, of sensors that it cannot use for instance, comes as lines behind them.
    """
    link.restart()
    trace = ""
    complaints: list[str] = []
    for line in link.lines(timeout_s):
        if _ALIVE.match(line):
            return "\n".join([line, *complaints])
        if _COMPLAINT.match(line):
            complaints.append(line)
        if line.startswith("config.json:"):
            return line
        if line.startswith("Traceback"):
            trace = line
        elif trace and not line.startswith(" "):
            raise DeployError(f"{link.port}: the firmware does not start: {line}")
    raise DeployError(f"{link.port}: nothing heard from the firmware within {timeout_s:g} s")


def deploy(
    port: str,
    *,
    board: Board | None = None,
    kinds: list[str] | None = None,
    progress: Callable[[str, int], None] = nothing,
    total: Callable[[int], None] | None = None,
) -> Deployed:
    """Put the firmware onto the board at `port` and wait until it reports itself alive.

    kinds: of the sensors it will read, so that their drivers are looked for. Raises LinkError.
    """
    with BoardLink(port) as link:
        march = check_board(link, board)
        files = contents(link, kinds or [], march)
        done = put(link, files, remove=stale(link, files), progress=progress, total=total)
        done.alive = wait_alive(link)
        return done
