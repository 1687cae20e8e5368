"""The watchdog: what hangs is reset, and a developer at the prompt is left alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest

from tools import deploy, firmware
from tools.virtual import VirtualBoard
from tools.virtual.flash import FREE

Make = Callable[..., VirtualBoard]

WATCHDOG_S = 2
SETTINGS = {
    "device": "watched",
    "wifi": {"ssid": "lab", "password": "secret"},
    "gateway": {"host": "127.0.0.1", "port": 9},
    "watchdog_s": WATCHDOG_S,
    "sensors": [],
}
# A driver that never comes back, and says when that began.
HANG = b"""
from node.sensor import Sensor
class Hang(Sensor):
    def read(self):
        print("hangs")
        while True:
            pass
make = Hang
"""
# What a developer does at the prompt for longer than the watchdog would wait.
STAY = f"import time; time.sleep({WATCHDOG_S + 1}); print('still ' + 'here')\r".encode()


def start(make: Make, **more: Any) -> VirtualBoard:
    """Start a board with the firmware and its watchdog on; gives it once that runs."""
    files = firmware.laid_out({**firmware.collect(), "node/sensors/hang.py": HANG})
    board = make(files=files, config={**SETTINGS, **more}, heap_kb=128, pty=True)
    board.wait("^tidegate ")
    return board


def watchdog_s(board: VirtualBoard) -> float:
    """Give what the chip's watchdog waits for [s]."""
    watchdog = board.core._watchdog
    assert watchdog, "the watchdog is off"
    return watchdog[0]


def test_hung_loop_is_reset_after_the_stated_time(make: Make) -> None:
    board = start(make, sensors=[{"kind": "hang", "period_s": 60}])
    board.wait("^hangs$")
    hung = time.monotonic()
    board.wait("watchdog reset", timeout_s=10 * WATCHDOG_S)
    waited_s = time.monotonic() - hung
    assert waited_s > WATCHDOG_S / 2, "it went off before its time"
    board.wait("^tidegate .* boot 2$")


def test_board_that_hangs_again_and_again_ends_in_safe_mode(make: Make) -> None:
    board = start(make, watchdog_s=1, sensors=[{"kind": "hang", "period_s": 60}])
    said = board.wait("^safe mode after 5.*", timeout_s=60)[0]
    board.wait("^offline", after=board.console.lines.index(said))  # and it stays up
    resets = [line for line in board.console.lines if "watchdog reset" in line]
    assert len(resets) == 5
    assert watchdog_s(board) == 1


def test_board_that_works_is_not_reset(make: Make) -> None:
    board = start(make, watchdog_s=1, health_s=1)
    mark = 0
    for _ in range(4):
        board.wait("^heap low", after=mark)
        mark = board.console.mark()
    assert watchdog_s(board) == 1
    assert board.boots == 1


@pytest.mark.parametrize("presses", [1, 2, 5])
def test_developer_at_the_prompt_is_not_reset(make: Make, presses: int) -> None:
    board = start(make)
    board.wait("^offline")  # the loop runs
    board.type_in(b"\x03" * presses)
    board.wait("^stopped; the prompt is yours")
    board.type_in(STAY)
    board.wait("^still here$", timeout_s=10 * WATCHDOG_S)
    assert board.boots == 1
    assert watchdog_s(board) == 3600


def test_watchdog_outlives_a_soft_reset(make: Make) -> None:
    board = make("import machine\nwatchdog = machine.WDT(timeout=3000)\nprint('on')\n", pty=True)
    board.wait("^on$")
    board.type_in(b"import os\ros.remove('/main.py')\r\x04")
    board.wait("soft reboot")
    board.wait("watchdog reset")


def test_deploy_goes_through_with_the_watchdog_on(make: Make, monkeypatch: Any) -> None:
    board = start(make, watchdog_s=1)
    board.flash.costs = FREE  # no deploy's last step ends in time on a chip's flash yet: issue 12
    board.reset()
    board.wait("^offline", after=board.console.mark())
    changed = {name: data + b"\n" for name, data in firmware.collect().items()}
    files = {**changed, "node/large": bytes(600_000)}
    monkeypatch.setattr(firmware, "collect", lambda march="": files)
    began = time.monotonic()
    done = deploy.deploy(board.port)
    assert time.monotonic() - began > 1.5, "too quick to show anything"
    assert len(done.copied) == len(files)
    assert not [line for line in board.console.lines if "watchdog reset" in line]
    board.wait("^offline", after=board.console.lines.index(done.alive))
    assert watchdog_s(board) == 1, "the firmware that was deployed has it on again"
