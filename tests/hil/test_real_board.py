"""Real boards of a bench: on loan, fed over their console, in the loop with the whole chain.

What stands in for one is a virtual board behind a serial port, of which the bench knows the port
and nothing else: no world, no console of its own, no power but by a relay.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tools import firmware
from tools.hil.bench import Bench, Entry
from tools.hil.recording import create, new_header, publish_event
from tools.hil.run import run_scenario
from tools.hil.scenario import parse
from tools.hil.site import Site
from tools.virtual import VirtualBoard

HOST = "127.0.0.2"  # an address that is not the default, as a real bench's is not
HOME = {
    "device": "greenhouse-7", "board": "virtual", "wifi": {"ssid": "home", "password": "secret"},
    "gateway": {"host": "127.0.0.1", "port": 1}, "sensors": [],
}
VALUES = [round(20 + number * 0.25, 2) for number in range(12)]

SCENARIO = """
title = "a recording through a board on a serial port"
seconds = 4
drain_s = 10
expect = ["lost = 0", "duplicated = 0", "reordered = 0", "invented = 0", "records > 11"]
[boards]
count = 1
needs = ["real", "world"]
period_s = 60
playback = "felt.jsonl"
"""


@pytest.fixture
def plugged(tmp_path: Path) -> Iterator[VirtualBoard]:
    """Give a board on a serial port, with the firmware and a home of its own."""
    board = VirtualBoard(image=tmp_path / "plugged.img", files=firmware.FOLDER, config=HOME,
                         pty=True, heap_kb=128)
    with board:
        board.wait("^tidegate .* greenhouse-7 ")
        yield board


def bench_of(board: VirtualBoard, **more: Any) -> Bench:
    return Bench([Entry(name="bench-1", port=board.port, deploy=False, **more)], host=HOST)


def write_recording(folder: Path) -> None:
    with create(folder / "felt.jsonl", new_header("test")) as writer:
        for number, value in enumerate(VALUES):
            payload = json.dumps({"temp-C": value, "note": "x"}).encode()
            writer.write(publish_event(number * 250_000_000, "lab", "lab/air", payload))


def test_recording_through_a_board_on_a_serial_port(plugged: VirtualBoard, tmp_path: Path
                                                    ) -> None:
    write_recording(tmp_path)
    text = SCENARIO + 'values = {"temp-C" = "temperature_c"}\n'
    came: list[Any] = []

    def keep(arrival: Any) -> None:
        came.append(arrival)

    run = asyncio.run(run_scenario(parse(text, "s", tmp_path), tmp_path / "run",
                                   bench_of(plugged)))
    assert run.verdict.outcome == "PASS", (run.verdict.line, run.verdict.offences)
