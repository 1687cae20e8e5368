"""Names that take long to look up, or cannot be, on the whole firmware and in its uplink alone."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from fake_broker import FakeBroker, Manner
from test_whole import config

from tools.virtual.board import VirtualBoard
from tools.virtual.network import Network

CHIP = [{"kind": "chip", "name": "chip", "period_s": 0.2}]


@pytest.fixture
def fake() -> Iterator[FakeBroker]:
    broker = FakeBroker([Manner()])
    yield broker
    broker.close()


def named(fake: FakeBroker, folder: Path, **network: float) -> VirtualBoard:
    """Give a board that knows the broker by name."""
    settings = config(fake, sensors=CHIP)
    settings["gateway"].update(host="localhost", retry_max_s=1)
    return VirtualBoard(
        image=folder / "flash.img", files=Path("device"), config=settings, heap_kb=96,
        network=Network(**network),  # type: ignore[arg-type]
    )


def test_name_that_takes_long_is_waited_for(fake: FakeBroker, tmp_path: Path) -> None:
    with named(fake, tmp_path, names_ms=700) as board:
        board.wait(r"^online")
        fake.wait_for("up")
    assert not [line for line in board.console.lines if line.startswith("offline")]


def test_name_that_nobody_knows_is_asked_again(fake: FakeBroker, tmp_path: Path) -> None:
    with named(fake, tmp_path) as board:
        board.air.names_fail = True
        board.wait(r"^offline OSError -202")
        board.wait(r"^rec \w+ 1 5$")
        board.air.names_fail = False
        board.wait(r"^online")


def test_known_address_is_used_while_names_fail(fake: FakeBroker, tmp_path: Path) -> None:
    with named(fake, tmp_path) as board:
        board.wait(r"^online")
        board.air.names_fail = True
        fake.close()
        mark = 0
        for _ in range(5):  # the address is looked up anew after the third
            board.wait(r"^offline", after=mark)
            mark = board.console.mark()
        again = FakeBroker([Manner()], port=fake.port)
        board.wait(r"^online", after=mark)
        again.close()


class SlowLink:
    """A link whose look-up takes nine seconds and fails."""

    def __init__(self, clock: SimpleNamespace) -> None:
        self.state, self.why, self.opens, self._clock = 0, "", 0, clock

    def open(self) -> None:
        self.opens += 1
        self._clock.ms += 9000

    def step(self) -> None:
        pass


def test_board_does_more_than_look_up_names(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ModuleType("node.link")
    names.__dict__.update(DOWN=0, CONNECTING=1, UP=4)
    monkeypatch.setitem(sys.modules, "node.link", names)
    module = importlib.import_module("node.uplink")
    clock = SimpleNamespace(ms=0)
    link: Any = SlowLink(clock)
    backoff = SimpleNamespace(next_ms=lambda _: 500)
    uplink = module.Uplink(link, None, backoff, lambda: 1, lambda: clock.ms, b"", None, None)
    uplink.step(True)
    for _ in range(4):
        clock.ms += 100
        uplink.step(True)
    assert link.opens == 1  # once in a while, not in every step
    clock.ms += 100
    uplink.step(True)
    assert link.opens == 2
    sys.modules.pop("node.uplink")
