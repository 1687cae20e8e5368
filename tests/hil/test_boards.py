"""The fixtures of the pytest plugin, with a board and the whole chain behind it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tools.hil.bench_boards import BenchBoard
from tools.hil.plugin import needs
from tools.judge import Subscriber
from tools.mosquitto import Mosquitto
from tools.virtual.world import World

pytest_plugins = ["pytester"]


@needs("wifi", "power", "world")
def test_board_bears_wifi_and_power_cuts(board: BenchBoard, upstream: Mosquitto, world: World
                                         ) -> None:
    with Subscriber(upstream.port, ["tidegate/#"]) as judge:
        board.console.wait(r"^rec ", 20)
        world.set("flow", temperature_c=-11.5)
        board.wifi(False)
        mark = board.console.mark()
        for _ in range(3):
            board.console.wait(r"^rec ", 10, after=mark)
            mark = board.console.mark()
        board.wifi(True)
        board.power_cut()
        owed = board.ledger.records()
        board.power_on()
        assert judge.wait_for_records(owed, 30)
        judge.wait_for(lambda: any(felt(arrival.payload) == -11.5 for arrival in judge.arrivals),
                       15, "the cold")


def felt(payload: bytes) -> float | None:
    try:
        return json.loads(payload)["values"].get("temperature_c")
    except (ValueError, KeyError, TypeError):
        return None


def test_needs_nobody_has_skips_with_the_reason(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("""
        from tools.hil.plugin import needs
        @needs("moon")
        def test_it(board):
            pass
    """)
    result = pytester.runpytest_inprocess("-rs", "-p", "no:cacheprovider")
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["*virtual-1 has no moon*"])


def test_bench_file_that_is_wrong_is_named(pytester: pytest.Pytester) -> None:
    Path(pytester.path / "hil.toml").write_text('[[board]]\nname = "a"\n')
    pytester.makepyfile("def test_it(bench): pass")
    result = pytester.runpytest_inprocess("--hil", "hil.toml")
    result.assert_outcomes(errors=1)
    result.stdout.fnmatch_lines(["*board a: one of serial and port is needed*"])
