"""The two slots as boot.py sees them: which runs, and what the console says where one is amiss."""

from __future__ import annotations

import pytest
from releases import PARTS, Make, version

from tools import firmware
from tools.virtual import VirtualBoard

BOOT = (firmware.FOLDER / "boot.py").read_bytes()
WHOLE = b"0 0 x\nend\n"


def board_with(make: Make, a: int | None, b: int | None, **more: bytes) -> VirtualBoard:
    """Start a board with these releases in its slots; more: other files, by their path."""
    files = {"boot.py": BOOT, "main.py": b"from node import app\n\napp.main()\n"}
    for number, slot in ((a, "/a"), (b, "/b")):
        if number is not None:
            files |= firmware.laid_out(version(number), slot)
    files |= {path.replace("__", "/"): data for path, data in more.items()}
    return make(files={**files, "boot.py": BOOT})


def choose(board: VirtualBoard, slot: int) -> None:
    """Set what NVS names, and press the reset button."""
    board.power_cut()
    board.hardware.nvs.choose(slot)
    board.power_on()


def complaints(board: VirtualBoard) -> list[str]:
    return [line for line in board.console.lines if line.startswith("boot:")]


@pytest.mark.parametrize("slot", [0, 1])
def test_slot_that_nvs_names_runs(make: Make, slot: int) -> None:
    board = board_with(make, 1, 2)
    board.power_cut()
    board.console.lines.clear()
    choose(board, slot)
    assert board.wait(PARTS)[1] == str(1 + slot)
    assert complaints(board) == []


def unset(board: VirtualBoard) -> None:
    board.power_cut()
    board.console.lines.clear()
    board.hardware.nvs.erase()
    board.power_on()


@pytest.mark.parametrize(("a", "b", "want"), [(1, None, 1), (None, 2, 2), (1, 2, 1)])
def test_without_a_choice_a_whole_slot_runs(
    make: Make, a: int | None, b: int | None, want: int
) -> None:
    board = board_with(make, a, b)
    unset(board)
    assert board.wait(PARTS)[1] == str(want)
    assert complaints(board) == [f"boot: no slot is chosen, {'/ab'[0] + ' ab'[want]} runs"]


def test_without_any_slot_it_says_what_to_do_and_gives_the_prompt(make: Make) -> None:
    board = make(files={"boot.py": BOOT, "main.py": b"print('main')"}, pty=True)
    board.wait("^main$")
    assert complaints(board)[0] == (
        "boot: neither /a nor /b is whole; `tidegate board deploy` writes the firmware")
    board.type_in(b"print(6 * 7)\r")
    board.wait("^42$")


CUT_OFF = firmware.manifest({"node/a": b"", "node/send": b""})[:-5]


@pytest.mark.parametrize("manifest", [b"", b"end\n", CUT_OFF, CUT_OFF + b"\n", WHOLE[:-1], None])
def test_slot_that_is_not_whole_gives_way_to_the_other(
    make: Make, manifest: bytes | None
) -> None:
    board = board_with(make, 1, 2, **({} if manifest is None else {"b__manifest": manifest}))
    if manifest is None:
        board.power_cut()
        board.serve(["vfs.mount(vfs.VfsLfs2(flash), '/')\nimport os\nos.remove('/b/manifest')"])
    mark = board.console.mark()
    choose(board, 1)
    assert board.wait(PARTS, after=mark)[1] == "1"
    assert complaints(board)[-1] == "boot: the chosen slot is not whole, /a runs"


def test_where_neither_is_whole_nothing_of_them_runs(make: Make) -> None:
    board = board_with(make, 1, 2, a__manifest=b"", b__manifest=b"")
    unset(board)
    board.wait("^boot: neither /a nor /b is whole")
    board.wait("^ImportError: no module named 'node'")


@pytest.mark.parametrize("failing", [b"raise OSError(-4357)", b"raise ImportError"])
def test_board_whose_nvs_fails_takes_the_first_whole_slot(make: Make, failing: bytes) -> None:
    broken = b"import esp32\ndef fail(_name):\n    " + failing + b"\nesp32.NVS = fail\n"
    board = make(files={**firmware.laid_out(version(2), "/b"), "boot.py": broken + BOOT})
    assert board.wait(PARTS)[1] == "2"
    assert complaints(board) == ["boot: no slot is chosen, /b runs"]


def test_order_of_imports(make: Make) -> None:
    """A slot goes before /, and what the image has built in before /lib."""
    which = b"""
import sys
import umqtt.simple
from node import a
print("path", sys.path)
print("from", umqtt.simple.__file__, a.N)
"""
    files = {**firmware.laid_out(version(1)), "main.py": which, "node/a.py": b"N = 7",
             "node/__init__.py": b"", "lib/umqtt/simple.py": b"", "lib/umqtt/__init__.py": b""}
    board = make(files={**files, "boot.py": BOOT})
    assert board.wait(r"^path (.*)")[1] == "['/a', '', '/.rom', '.frozen', '/lib']"
    assert board.wait(r"^from (\S+) 1")[1].startswith("/.rom/umqtt/simple")
    assert complaints(board) == []
