"""The benches measure, keep what they have when broken off, and name what is not there."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from tools import bench_ab, bench_core
from tools.bench_ab import Pair, run_rounds
from tools.bench_core import CASES, ROOT, CoreCase, CoreError, run_case


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_case_of_the_core_runs_to_its_end(case: CoreCase) -> None:
    """A case that gets stuck, or loses a message on its way, does not end."""
    messages = 10 if case.kind == "fan-out" else 200
    few = CoreCase(case.name, case.kind, case.into, case.out, messages)
    assert run_case(few) > 0


def test_a_tree_without_a_gateway_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(CoreError, match=r"the tree has none of tidegate.config, gateway.config"):
        run_case(CASES[0], tmp_path)


@pytest.mark.parametrize("command", [bench_core.bench_core, bench_ab.bench_ab])
def test_a_case_that_matches_nothing_is_an_error(command: object) -> None:
    args = ["--case", "nothing"] + (["HEAD"] if command is bench_ab.bench_ab else [])
    result = CliRunner().invoke(command, args)  # type: ignore[arg-type]
    assert result.exit_code == 2
    assert "no case has 'nothing' in its name" in result.output


def test_an_unknown_commit_is_said_in_one_line() -> None:
    result = CliRunner().invoke(bench_ab.bench_ab, ["no-such-commit"])
    assert result.exit_code == 1
    assert "OLD=no-such-commit" in result.output
    assert "Traceback" not in result.output


def test_rounds_that_are_broken_off_keep_what_was_measured() -> None:
    calls = iter(range(100))

    def job(_tree: Path) -> float:
        if next(calls) == 5:
            raise KeyboardInterrupt
        return 10.0

    pairs = {"one": Pair("one")}
    with pytest.raises(KeyboardInterrupt):
        run_rounds({"one": job}, (ROOT, ROOT), 10, pairs, lambda _line: None)
    assert pairs["one"].ratios() == [1.0, 1.0]


def test_what_fails_in_one_tree_is_not_measured_again_and_the_others_are() -> None:
    def job(_tree: Path) -> float:
        raise CoreError("the gateway dropped its link")

    pairs = {"bad": Pair("bad"), "good": Pair("good")}
    run_rounds({"bad": job, "good": lambda _tree: 1.0}, (ROOT, ROOT), 3, pairs,
               lambda _line: None)
    assert "dropped its link" in pairs["bad"].verdict()
    assert len(pairs["good"].ratios()) == 3


@pytest.mark.parametrize(("old", "new", "verdict"), [
    ([10.0, 10.0, 10.0], [10.2, 10.3, 10.1], "within 3 %"),
    ([10.0, 11.0, 10.0], [10.8, 11.0, 10.9], "spreads overlap"),
    ([10.0, 10.1, 10.0], [11.0, 11.2, 11.1], "SLOWER"),
    ([], [], "not measured"),
])
def test_the_verdict_is_by_the_ratios_median_or_the_spreads(
        old: list[float], new: list[float], verdict: str) -> None:
    assert Pair("x", old, new).verdict() == verdict
