"""Releases for tests: small ones whose parts say which they belong to, in slots and as before."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tools import deploy, firmware
from tools.board_errors import LinkError, UnpluggedError
from tools.board_link import BoardLink
from tools.virtual import VirtualBoard

Make = Callable[..., VirtualBoard]
PARTS = r"^parts (\d) (\d) (\d)$"

# As it lay on boards of before slots; /swap.py ends a deploy that was cut off in its last step.
OLD_BOOT = b'''"""Counts the boot. Can never raise."""

try:
    import swap
except ImportError:
    pass
except Exception as error:
    print("boot:", type(error).__name__, error)

try:
    from node import board

    board.identity()
except Exception as error:
    print("boot:", type(error).__name__, error)
'''
OLD_SWAP = """import os
for p in {new!r}:
    try:
        os.rename(p + '.new', p)
    except OSError as e:
        if e.args[0] != 2:
            raise
for p in {old!r}:
    try:
        os.remove(p)
    except OSError as e:
        if e.args[0] != 2:
            raise
os.remove('/swap.py')
"""


def version(number: int) -> dict[str, bytes]:
    """Make a firmware as `firmware.collect` gives it; the files in / differ too."""
    app = f"""
from node import a, b
def main():
    print("tidegate {number} x life 0 boot 1")
    print("parts", {number}, a.N, b.N)
"""
    part = f"N = {number}\n" + f"T = '{'x' * 3000}{number}'\n"
    files = {"node/app.py": app, "node/a.py": part, "node/b.py": part, "node/same.py": "S = 1",
             "node/__init__.py": "", "node/board.py": "def identity():\n    pass\n"}  # fmt: skip
    if number == 1:
        files["node/old.py"] = "OLD = 1"
    compiled = {
        name[:-3] + ".mpy": firmware.compile_source(text.encode(), name)
        for name, text in files.items()
    }
    shared = {
        name: (firmware.FOLDER / name).read_bytes() + b"# %d\n" % number
        for name in firmware.AS_SOURCE
    }
    return {**compiled, **shared}


def before_slots(number: int, *, swap_from: int | None = None) -> dict[str, bytes]:
    """Give a board of before slots; with swap_from its last deploy was cut off in the swap."""
    main = (firmware.FOLDER / "main.py").read_bytes()
    files = {**version(number), "boot.py": OLD_BOOT, "main.py": main}
    if swap_from is None:
        return files
    return in_its_swap({**version(swap_from), "boot.py": OLD_BOOT, "main.py": main}, files)


def in_its_swap(old: dict[str, bytes], files: dict[str, bytes]) -> dict[str, bytes]:
    """Give a board of before slots whose last deploy was cut off after its first renaming."""
    changed = sorted(path for path in files if old.get(path) != files[path])
    gone = sorted(path for path in old if path not in files)
    swap = OLD_SWAP.format(new=["/" + path for path in changed], old=["/" + path for path in gone])
    first = changed[0]  # it was done when the power went
    staged = {path + ".new": files[path] for path in changed if path != first}
    return {**old, **staged, first: files[first], "swap.py": swap.encode()}


def use(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Let the next deploy bring this release."""
    monkeypatch.setattr(firmware, "collect", lambda march="": version(number))


def runs(board: VirtualBoard, after: int) -> int:
    """Give the release that comes up; the test fails where it is a mixture of two."""
    found = board.wait(PARTS, after=after)
    assert found[1] == found[2] == found[3], "a mixture of two releases"
    return int(found[1])


def restarted(board: VirtualBoard) -> int:
    """Press the reset button; gives the release that comes up."""
    mark = board.console.mark()
    board.reset()
    return runs(board, mark)


class Calls:
    """Counts what the host asks of the board, and ends the host at one of these calls.

    how: `before` the call, `after` it, or in the `middle`: the board does it alone. What lies open
    on the board is closed then, as a chip does when it starts anew.
    """

    def __init__(self, at: int = 0, how: str = "before", end: type[BaseException] = UnpluggedError
                 ) -> None:
        self.at, self.how, self.end = at, how, end
        self.count = 0

    @contextlib.contextmanager
    def patched(self) -> Iterator[Calls]:
        """Let every call of BoardLink.run pass here."""
        plain = BoardLink.run

        def run(link: BoardLink, *words: Any) -> str:
            self.count += 1
            if self.count != self.at:
                return plain(link, *words)
            if self.how == "after":
                plain(link, *words)
            elif self.how == "middle":
                link._transport.exec_raw_no_follow(words[0])
            if self.how != "middle":
                plain(link, "try:\n    f.close()\nexcept Exception:\n    pass")
            if self.end is UnpluggedError:
                link._transport.serial.close()
            raise self.end("the test pulled the cable")

        BoardLink.run = run  # type: ignore[method-assign]
        try:
            yield self
        finally:
            BoardLink.run = plain  # type: ignore[method-assign]


def deploy_until_off(board: VirtualBoard, monkeypatch: pytest.MonkeyPatch) -> str:
    """Deploy to a board whose power may go meanwhile; gives the error, "" where there is none."""
    links: list[BoardLink] = []
    said = [""]

    def open_link(port: str) -> BoardLink:
        links.append(BoardLink(port))
        return links[-1]

    def run() -> None:
        try:
            deploy.deploy(board.port)
        except (LinkError, AttributeError, TypeError) as error:  # pyserial, closed as it reads
            said[0] = repr(error)

    with monkeypatch.context() as patch:
        patch.setattr(deploy, "BoardLink", open_link)
        thread = threading.Thread(target=run)
        thread.start()
        while thread.is_alive() and not board.wait_off(0.02):
            pass
        if board.pid is None and links and links[0]._transport is not None:
            links[0]._transport.serial.close()  # the cable goes with the power
        thread.join()
    return said[0]
