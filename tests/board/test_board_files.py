"""Every board file says what can be true of its chip."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools import boards
from tools.chips import CHIPS

ASKED_FOR = {
    "esp32-devkitc", "esp32-s3-devkitc", "esp32-c3-supermini", "lolin-c3-mini",
    "esp32-c6-devkitc", "xiao-esp32c3", "lolin-s2-mini", "virtual",
}  # fmt: skip
HEAP_AT_START_KB = {"esp32": 56, "esp32s2": 36, "esp32s3": 64, "esp32c3": 64, "esp32c6": 64}


def faults(board: boards.Board) -> list[str]:
    """List what is wrong with a board: empty for a good one."""
    chip = CHIPS.get(board.chip)
    if chip is None:
        return [f"no chip {board.chip}"]
    noted = {int(number) for key in board.notes for number in key.split(",")}
    used = dict(board.pins)
    if board.led:
        used["led"] = board.led[0]
    if board.button is not None:
        used["button"] = board.button
    found = []
    for name, pin in used.items():
        if pin not in chip.gpios:
            found.append(f"{name}: {board.chip} has no GPIO {pin}")
        elif pin in chip.flash:
            found.append(f"{name}: GPIO {pin} belongs to the flash")
        elif pin in chip.usb and "usb" in board.features:
            found.append(f"{name}: GPIO {pin} belongs to the USB port")
        elif pin in chip.strapping and pin not in noted:
            found.append(f"{name}: GPIO {pin} is read at reset and has no note")
    for number in noted:
        if number not in chip.strapping:
            found.append(f"note on GPIO {number}, which is not read at reset")
    if board.led and board.led[0] in chip.input_only:
        found.append("the LED is on a pin that only reads")
    if len(set(board.pins.values())) != len(board.pins):
        found.append("two names for one pin")
    if "virtual" not in board.features:
        if board.image_offset != chip.loader_at:
            found.append(f"the image of {board.chip} begins at {chip.loader_at:#x}")
        if not board.usb:
            found.append("no USB ids")
    return found


def test_the_boards_asked_for_are_there() -> None:
    assert set(boards.names()) >= ASKED_FOR


@pytest.mark.parametrize("name", boards.names())
def test_board_file_is_right(name: str) -> None:
    text = (boards.FOLDER / f"{name}.toml").read_text()
    board = boards.load(name)
    assert faults(board) == []
    assert len(text.splitlines()) <= 30
    assert board.flash_mb in (4, 8, 16)
    assert board.heap_kb <= (64 if board.id == "virtual" else HEAP_AT_START_KB[board.chip])
    assert board.led_kind in ("", "plain", "rgb")
    assert "not tried on hardware" in text or name == "virtual"


GOOD = """
name = "X"
chip = "esp32c3"
flash_mb = 4
image = "I"
image_offset = 0
heap_kb = 64
usb = ["303a:1001"]
features = ["usb"]
[pins]
A = 3
"""


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ("A = 40", "no GPIO 40"),
        ("A = 12", "belongs to the flash"),
        ("A = 18", "belongs to the USB port"),
        ("A = 8", "has no note"),
        ("A = 3\nB = 3", "two names"),
    ],
)
def test_check_finds_a_wrong_pin(change: str, fault: str) -> None:
    assert faults(boards.parse(GOOD, "x")) == []
    found = faults(boards.parse(GOOD.replace("A = 3", change), "x"))
    assert len(found) == 1
    assert fault in found[0]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("flash_mb = 4", 'flash_mb = "4"'),
        ("chip = ", "chop = "),
        ('"303a:1001"', '"303a"'),
        ("[pins]", "[pins"),
    ],
)
def test_wrong_board_file_gives_one_line_with_file_and_key(change: str, said: str) -> None:
    with pytest.raises(boards.BoardError) as caught:
        boards.parse(GOOD.replace(change, said), "x")
    assert str(caught.value).startswith("x.toml: ")
    assert "\n" not in str(caught.value)


def test_unknown_board_lists_those_there_are() -> None:
    with pytest.raises(boards.BoardError, match=re.escape("esp32-devkitc, esp32-s3-devkitc")):
        boards.load("esp99")


def test_usb_ids_find_the_boards_that_fit() -> None:
    assert [b.id for b in boards.fitting(0x303A, 0x0002)] == ["lolin-s2-mini"]
    assert "esp32-devkitc" in [b.id for b in boards.fitting(0x10C4, 0xEA60)]
    assert boards.fitting(None, None) == []


def test_adding_a_board_is_adding_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(GOOD)
    assert boards.names(tmp_path) == ["mine"]
    assert boards.load("mine", tmp_path).pins == {"A": 3}
