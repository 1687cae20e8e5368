"""The firmware's heap, on the 32-bit virtual board: what the orders allow it."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from tools import heap, interpreter
from tools.board_cli import board

pytestmark = pytest.mark.skipif(
    interpreter.obtain().bits != 32, reason="this machine runs no 32-bit interpreter"
)


@pytest.mark.parametrize(("sensors", "budget_kb"), [(4, 45), (2, 36)])
def test_sensors_fit_the_budget(sensors: int, budget_kb: int) -> None:
    assert heap.BUDGETS_KB[sensors] == budget_kb
    assert heap.runs_in(sensors, budget_kb)


def test_heap_command_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "LOOKS", 1)
    done = CliRunner().invoke(board, ["heap"])
    assert "budget      45 KB: runs" in done.output, done.output
    assert "budget      36 KB: runs" in done.output
    assert done.exit_code == 0
