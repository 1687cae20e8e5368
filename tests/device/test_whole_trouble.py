"""The whole firmware where something is wrong with its board: it says so and goes on measuring."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fake_broker import FakeBroker, Manner
from test_whole import config

from tools import firmware
from tools.virtual.board import VirtualBoard

CHIP = [{"kind": "chip", "name": "chip", "period_s": 0.2}]


@pytest.fixture
def fake() -> Iterator[FakeBroker]:
    broker = FakeBroker([Manner()])
    yield broker
    broker.close()


def with_main(before: str) -> dict[str, bytes]:
    """Give the firmware with a main.py that changes the board before it starts."""
    main = before + "from node import app\napp.main()\n"
    return firmware.laid_out({**firmware.collect(), "main.py": main.encode()})


INPUT_ONLY = """
import machine
class Pin(machine.Pin):
    def __init__(self, n, mode=-1, *more, **named):
        if n == 34 and mode == machine.Pin.OUT:
            raise ValueError("pin can only be input")
        super().__init__(n, mode, *more, **named)
machine.Pin = Pin
"""


def test_led_on_a_pin_that_cannot_be_one_costs_only_the_led(
    fake: FakeBroker, tmp_path: Path
) -> None:
    settings = config(fake, led={"pin": 34}, sensors=CHIP)
    with VirtualBoard(
        image=tmp_path / "flash.img", files=with_main(INPUT_ONLY), config=settings, heap_kb=96
    ) as board:
        board.wait(r"^LED or button not usable: ValueError pin can only be input$")
        assert fake.wait_for("up")[0]["boot"] == 1


def test_authority_that_is_not_there_costs_the_link_and_no_reading(
    fake: FakeBroker, tmp_path: Path
) -> None:
    settings = config(fake, sensors=CHIP)
    settings["gateway"].update(tls={"ca": "/ca.der"}, retry_max_s=1)
    with VirtualBoard(
        image=tmp_path / "flash.img", files=Path("device"), config=settings, heap_kb=96
    ) as board:
        board.wait(r"^offline Broken TLS not usable: OSError \[Errno 2\] ENOENT again in \d+ ms$")
        board.wait(r"^rec \w+ 1 5$")
        board.wait(r"^offline Broken TLS not usable", after=board.console.mark())
    assert fake.connections == 0, "nothing goes out in plain text"


def test_board_whose_memory_fails_draws_a_life_for_each_boot(
    fake: FakeBroker, tmp_path: Path
) -> None:
    files = firmware.collect()
    broken = b"import esp32\ndef fail(_name):\n    raise OSError(-4357)\nesp32.NVS = fail\n"
    files = firmware.laid_out({**files, "boot.py": broken + files["boot.py"]})
    with VirtualBoard(
        image=tmp_path / "flash.img", files=files, config=config(fake, sensors=CHIP), heap_kb=96
    ) as board:
        fake.wait_for("up")
        board.reset()
        abouts = fake.wait_for("about", 2)
    assert [about["boot"] for about in abouts] == [1, 1]
    assert abouts[0]["life"] != abouts[1]["life"]


def test_more_failed_sensors_than_about_has_room_for_stop_nothing(
    fake: FakeBroker, tmp_path: Path
) -> None:
    failed = [{"kind": "none", "name": f"{number:028d}"} for number in range(24)]
    settings = config(fake, sensors=CHIP + failed)
    with VirtualBoard(
        image=tmp_path / "flash.img", files=Path("device"), config=settings, heap_kb=96
    ) as board:
        about = fake.wait_for("about")[0]
        assert fake.wait_for("up")[0]["boot"] == 1
        assert len([line for line in board.console.lines if "not usable" in line]) == 24
    assert about["sensors"].keys() == {"chip"}


def test_about_without_room_is_left_out(fake: FakeBroker, tmp_path: Path) -> None:
    settings = config(fake, sensors=CHIP, board="x" * 900)
    with VirtualBoard(
        image=tmp_path / "flash.img", files=Path("device"), config=settings, heap_kb=96
    ) as board:
        board.wait("^no room for about$")
        assert fake.wait_for("up")[0]["boot"] == 1
