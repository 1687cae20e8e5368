"""What the firmware's loop does with its flash, on a virtual board whose flash takes time."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_broker import FakeBroker, Manner
from node.flash import Store
from node.ring import Ring
from test_ring import KEYS, Files

from tools import firmware
from tools.virtual.board import VirtualBoard
from tools.virtual.network import Network

# Says what each step of the loop costs by the chip's own counts: the host may be slow, and
# stopping it for a moment is no fault of the firmware.
MAIN = b"""
from array import array
from node import app

chip = open(5, "rb")
words = array("I", [0] * (4 + 512))


def spent():
    chip.seek(0)
    chip.readinto(words)
    return words[3] + 500 * sum(memoryview(words)[4:])


def step(self, real=app.App.step):
    began, end = spent(), self.ring._end_seg
    wait_ms = real(self)
    took = spent() - began
    if took > 1000:
        print("took", "spill" if self.ring._end_seg > end else "step", took // 10)
    return wait_ms


def node(real=app._node):
    began = spent()
    made = real()
    print("took", "start", (spent() - began) // 10)
    return made


app.App.step = step
app._node = node
app.main()
"""
STEP_MS = 250  # the bound of a step; those of a start and of a spill:
START_MS = 4000
SPILL_MS = 1000
RATE = 100  # records a second out of flash


@pytest.fixture
def fake() -> Iterator[FakeBroker]:
    broker = FakeBroker([Manner()])
    yield broker
    broker.close()


def start(image: Path, fake: FakeBroker, held: dict[str, bytes], **more: Any) -> VirtualBoard:
    """Start a board whose ring holds files already."""
    files = {**firmware.laid_out(firmware.collect()), **held, "main.py": MAIN}
    config = {
        "device": "dev", "wifi": {"ssid": "home", "password": "secret"}, "tell": False,
        "gateway": {"host": "127.0.0.1", "port": fake.port}, **more,
    }  # fmt: skip
    # One batch a round trip: a worse network than the usual one bounds the rate by itself.
    return VirtualBoard(image=image, files=files, config=config, heap_kb=96, network=Network())


def outage(records: int) -> dict[str, bytes]:
    """Give the files of a ring after an outage, as a board keeps them."""
    files = Files()
    ring = Ring(files, b"life", 7, 2048, 262144)
    for number in range(records):
        ring.add(number * 3333, "air", KEYS, (20 + number % 777 / 100, 40 + number % 311 / 10))
        ring.commit()
    place = Store("ring")._at
    return {place(name): data for name, data in files.files.items()}


def took(board: VirtualBoard) -> dict[str, list[int]]:
    """Give what starts, and dear steps and spills of its loop, took [ms]."""
    found: dict[str, list[int]] = {"start": [], "step": [], "spill": []}
    for line in board.console.lines:
        if match := re.match(r"took (\w+) (\d+)$", line):
            found[match[1]].append(int(match[2]))
    return found


DOOR = {"kind": "contact", "name": "door", "pin": 0, "period_s": 3600}


def check(board: VirtualBoard) -> dict[str, list[int]]:
    """Hold the bounds; gives what took more than 100 ms."""
    found = took(board)
    assert max(found["step"], default=0) <= STEP_MS
    assert max(found["spill"], default=0) <= SPILL_MS
    assert max(found["start"]) <= START_MS
    return found


def doors(fake: FakeBroker) -> list[bool]:
    """Give what the door was, in the order of its records."""
    values = []
    for batch in fake.wait_for("up"):
        values += [record[2]["open"] for record in batch["recs"] if record[1] == "door"]
    return values


def test_flash_is_emptied_fast_and_events_are_seen_meanwhile(
    fake: FakeBroker, tmp_path: Path
) -> None:
    records, pace = 3000, 300
    board = start(tmp_path / "a.img", fake, outage(records), sensors=[DOOR])
    with board:
        board.wait("^online", timeout_s=30)
        began_s, changes = time.monotonic(), 0
        for wanted in range(pace, records + 1, pace):
            with fake.news:
                assert fake.news.wait_for(lambda n=wanted: len(fake.records) >= n, 60)
            board.drive(0, 1 - changes % 2)
            changes += 1
        rate = records / (time.monotonic() - began_s)
        with fake.news:
            fake.news.wait_for(lambda: len(doors(fake)) > changes, 20)
        check(board)
    assert rate >= RATE
    assert doors(fake) == [number % 2 == 1 for number in range(changes + 1)]  # closed at first
    assert fake.holes == fake.again == 0


SOIL = [
    {"kind": "adc", "name": f"soil{pin}", "pin": pin, "period_s": 0.05} for pin in (34, 35, 32)
]


def test_no_step_of_an_outage_takes_long(fake: FakeBroker, tmp_path: Path) -> None:
    fake.manners = [Manner(silent=True)]
    board = start(
        tmp_path / "a.img", fake, outage(1000), sensors=[DOOR, *SOIL], hold_ms=100, health_s=1,
        ring={"flash_bytes": 11 * 4096},
    )  # fmt: skip
    with board:
        mark = 0
        for _ in range(4):  # the last of them with the bound reached
            board.wait("^took spill", timeout_s=60, after=mark)
            mark = board.console.mark()
        found = check(board)
    assert found["spill"]
