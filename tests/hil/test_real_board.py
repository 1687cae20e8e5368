"""Real boards of a bench: on loan, fed over their console, in the loop with the whole chain.

What stands in for one is a virtual board behind a serial port, of which the bench knows the port
and nothing else: no world, no console of its own, no power but by a relay.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from gpiozero import Device
from gpiozero.pins.mock import MockFactory, MockPin

from tools import firmware
from tools.arrival import Arrival
from tools.board_errors import LinkError
from tools.board_link import BoardLink
from tools.hil import loan
from tools.hil.bench import Bench, Entry
from tools.hil.cli import hil
from tools.hil.judgement import Judgement
from tools.hil.outcome import Run
from tools.hil.recording import create, new_header, publish_event
from tools.hil.run import run_scenario
from tools.hil.scenario import parse
from tools.virtual import VirtualBoard

pytest_plugins = ["pytester"]

HOST = "127.0.0.2"  # not the default, as a real bench's is not
HOME = {
    "device": "greenhouse-7", "board": "virtual", "wifi": {"ssid": "home", "password": "secret-8"},
    "gateway": {"host": "127.0.0.1", "port": 1}, "tell": True,
    "sensors": [{"kind": "ds18b20", "name": "bed", "pin": 5, "period_s": 1}],
}
VALUES = [20 + number * 0.25 for number in range(12)]
SCENARIO = """
title = "a recording through a board on a serial port"
seconds = 4
drain_s = 15
expect = ["lost = 0", "duplicated = 0", "reordered = 0", "invented = 0", "records > 11"]
[boards]
count = 1
needs = ["real", "world"]
period_s = 60
playback = "felt.jsonl"
values = {"temp-C" = "temperature_c"}
"""
POWER_CUT = """
[[fault]]
do = "board.power"
at = 0.2
until = 0.3
"""


@pytest.fixture
def plugged(tmp_path: Path) -> Iterator[VirtualBoard]:
    """Give a board on a serial port, with the firmware and a home of its own."""
    files = firmware.laid_out(firmware.collect()) | {"ring/mark": b"mine"}  # no ring minds it
    board = VirtualBoard(image=tmp_path / "plugged.img", files=files, config=HOME, pty=True,
                         heap_kb=64)
    with board:
        board.wait("^rec ")
        yield board


def bench_of(board: VirtualBoard, **more: Any) -> Bench:
    return Bench([Entry(name="bench-1", port=board.port, deploy=False, **more)], host=HOST)


def play(text: str, bench: Bench, folder: Path, on_arrival: Callable[[Arrival], None]) -> Run:
    with create(folder / "felt.jsonl", new_header("test")) as writer:
        for number, value in enumerate(VALUES):
            payload = json.dumps({"temp-C": value, "note": "x"}).encode()
            writer.write(publish_event(number * 250_000_000, "lab", "lab/air", payload))
    return asyncio.run(run_scenario(parse(text, "s", folder), folder / "run", bench,
                                    on_arrival=on_arrival))


class Felt:
    """What arrives upstream of a sensor, in order of its seq."""

    def __init__(self) -> None:
        self.values: dict[tuple[int, int], float] = {}

    def take(self, arrival: Arrival) -> None:
        if arrival.topic == "tidegate/bench-1/data/air":
            record = json.loads(arrival.payload)
            self.values[record["boot"], record["seq"]] = record["values"]["temperature_c"]

    def in_order(self) -> list[float]:
        return [value for _, value in sorted(self.values.items())]


def passed(verdict: Judgement) -> None:
    assert verdict.outcome == "PASS", (verdict.line, verdict.offences)


def test_recording_through_a_board_on_a_serial_port(plugged: VirtualBoard, tmp_path: Path
                                                    ) -> None:
    felt = Felt()
    run = play(SCENARIO, bench_of(plugged), tmp_path, felt.take)
    passed(run.verdict)
    assert run.troubles == []
    # the first value is felt from the start, and set again as the recording begins
    there, owed = felt.in_order(), iter([VALUES[0], *VALUES])
    assert all(value in owed for value in there), there  # in order, each once
    assert there[-1] == VALUES[-1]
    told = next(moment.what for moment in run.moments if " felt " in moment.what)
    felt_values, passed_over = map(int, re.findall(r" (\d+) ", told))
    assert felt_values == len(there)
    assert felt_values + passed_over == 1 + len(VALUES)
    assert "felt 10" in run.logs["boards/bench-1.console.log"]


def home_again(board: VirtualBoard) -> set[str]:
    """Return what is on a board's flash, when it is at home again."""
    board.power_cut()
    assert json.loads(board.read_file("config.json")) == HOME
    assert board.read_file("ring/mark") == b"mine"  # the records that it held are its own again
    return {path for path in board.list_files() if not path.startswith("ring/")}


def test_board_is_at_home_again_with_its_records(plugged: VirtualBoard, tmp_path: Path) -> None:
    before = home_again(plugged)
    plugged.power_on()
    mark = plugged.console.mark()
    plugged.wait("^rec ", after=mark)
    passed(play(SCENARIO, bench_of(plugged), tmp_path, lambda arrival: None).verdict)
    mark = plugged.console.mark()
    plugged.wait("^tidegate .* greenhouse-7 ", after=0)
    plugged.wait("^rec ", after=mark)
    assert home_again(plugged) == before


class Supply(MockPin):
    """A relay's pin whose other end is a virtual board's supply: drawn, there is no power."""

    board: VirtualBoard

    def _change_state(self, value: float) -> bool:
        changed: bool = super()._change_state(value)
        if changed:
            (self.board.power_cut if self.state else self.board.power_on)()
        return changed


def test_power_cut_by_the_relay_loses_nothing(plugged: VirtualBoard, tmp_path: Path,
                                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Supply, "board", plugged, raising=False)
    monkeypatch.setattr(Device, "pin_factory", MockFactory(pin_class=Supply))
    felt = Felt()
    text = SCENARIO.replace('"records > 11"', '"boots > 1", "records > 5"')
    text = text.replace("seconds = 4", "seconds = 8")  # a board needs seconds to come back
    run = play(text + POWER_CUT, bench_of(plugged, relay=17), tmp_path, felt.take)
    passed(run.verdict)
    assert run.troubles == []
    assert felt.in_order()[-1] == VALUES[-1]  # what was set while it had no power is felt after
    assert "power cut" in "".join(plugged.console.lines)


@pytest.mark.parametrize("operations", [
    *(pytest.param(number, marks=pytest.mark.slow) for number in (1, 2, 4, 6, 13)), 9])
def test_power_cut_while_lending_leaves_it_whole(
        plugged: VirtualBoard, operations: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut in the middle of that flash operation: what is given back is what was there."""
    monkeypatch.setattr(BoardLink.run, "__defaults__", (3.0,))  # it will not answer
    monkeypatch.setattr(loan, "STEP_S", 3.0)
    before = home_again(plugged)
    plugged.power_on()
    with BoardLink(plugged.port):  # at the prompt: nothing is written by itself
        plugged.cut_after(operations, part=0.5)
    with contextlib.suppress(LinkError):
        loan.lend(plugged.port, "bench-1", HOST, 1, {"air": ["temperature_c"]},
                  board="virtual", period_s=1, firmware=False)
    assert plugged.wait_off(1) or operations > 6, "it was not cut"
    plugged.power_cut()
    plugged.power_on()
    loan.give_back(plugged.port)
    assert home_again(plugged) == before


def hil_toml(folder: Path, port: str, more: str = "") -> Path:
    path = folder / "hil.toml"
    path.write_text(f'host = "{HOST}"\n[[board]]\nname = "bench-1"\nport = "{port}"\n'
                    f"deploy = false\n{more}")
    return path


def test_give_back_after_a_run_that_died(plugged: VirtualBoard, tmp_path: Path) -> None:
    def lend() -> None:
        loan.lend(plugged.port, "bench-1", HOST, 1, {"air": ["temperature_c"]}, board="virtual",
                  period_s=1, firmware=False)

    lend()
    with BoardLink(plugged.port) as link:
        link.run("import os\nos.mkdir('/ring')")
        link.write("/ring/of-the-dead-run", b"x")
    lend()
    with BoardLink(plugged.port) as link:
        assert link.tree("/ring") == []
        assert len(link.tree("/bench")) > 1
    path = str(hil_toml(tmp_path, plugged.port))
    result = CliRunner().invoke(hil, ["give-back", path])
    assert (result.exit_code, result.output) == (0, "bench-1: has its own settings again\n")
    home_again(plugged)
    plugged.power_on()
    assert "bench-1: has its own\n" in CliRunner().invoke(hil, ["give-back", path]).output


def test_world_of_a_real_board_is_fed(plugged: VirtualBoard, pytester: pytest.Pytester) -> None:
    hil_toml(pytester.path, plugged.port)
    pytester.makepyfile("""
        from tools.hil.plugin import needs
        from tools.judge import Subscriber

        @needs("real", "world")
        def test_it(board, world, upstream):
            with Subscriber(upstream.port, ["tidegate/#"]) as judge:
                world.set("flow", temperature_c=-11.5)
                judge.wait_for(lambda: any(b"-11.5" in one.payload for one in judge.arrivals), 20)

        @needs("wifi")
        def test_other(board):
            pass
    """)
    result = pytester.runpytest_inprocess("--hil", "hil.toml", "-rs", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=1, skipped=1)
    result.stdout.fnmatch_lines(["*bench-1 has no wifi*"])


def test_board_without_settings_says_what_to_do(tmp_path: Path) -> None:
    with VirtualBoard(image=tmp_path / "new.img", files=firmware.FOLDER, pty=True,
                      heap_kb=64) as board, pytest.raises(LinkError, match="board provision"):
        loan.lend(board.port, "bench-1", HOST, 1, {"air": ["temperature_c"]}, board="virtual",
                  period_s=1, firmware=False)


@pytest.mark.slow
def test_bench_brings_its_firmware_along(tmp_path: Path) -> None:
    with VirtualBoard(image=tmp_path / "old.img", files={"main.py": b"", "node/x.py": b""},
                      config=HOME, pty=True, heap_kb=64) as board:
        bench = Bench([Entry(name="bench-1", port=board.port)], host=HOST)
        passed(play(SCENARIO, bench, tmp_path, lambda arrival: None).verdict)
        board.power_cut()
        assert not {"node/x.py", "bench"} & set(board.list_files())
