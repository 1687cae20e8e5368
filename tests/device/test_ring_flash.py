"""The ring on the real littlefs of the real MicroPython: power cuts and wear."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from real_port import MicroPython

POINTS = 200


def last_line(output: str) -> Any:
    """What a script says of its run; before it littlefs may have complained of a cut."""
    return json.loads(output.splitlines()[-1])


def test_ring_loses_no_told_record_when_power_is_cut(micropython: MicroPython) -> None:
    result = last_line(micropython.run("ring_cuts.py", "2", str(POINTS)))
    assert result["points"] == POINTS
    assert result["cuts"] > POINTS // 2  # most of them met a write
    assert result["told"] > 50 * POINTS // 2
    assert 0 < result["dropped"] < result["told"] / 10  # the bound was reached, and counted


@pytest.mark.parametrize("sabotage", ["slots", "early"])
def test_power_cut_check_fails_when_the_ring_is_wrong(
    micropython: MicroPython, sabotage: str
) -> None:
    process = micropython.start("ring_cuts.py", "2", "40", sabotage)
    output, _ = process.communicate(timeout=50)
    assert process.returncode != 0
    assert "AssertionError" in output


def test_damage_is_found_and_stops_nothing(micropython: MicroPython) -> None:
    segment, table, none = last_line(micropython.run("ring_damage.py"))
    assert segment == {"names": {"air": 20, "door": 1}, "dropped": 20, "corrupt": 1}
    assert table["names"] == {"unreadable": 40, "door": 1}
    assert table["dropped"] == 0
    assert none == {"names": {"air": 40, "door": 1}, "dropped": 0, "corrupt": 0}


@pytest.mark.parametrize(
    ("group", "most"),
    [(1, 60), (3, 30)],  # measured: 38 and 18
)
def test_spilling_wears_the_flash_little(
    micropython: MicroPython, group: int, most: int
) -> None:
    result = last_line(micropython.run("ring_wear.py", str(group), "0"))
    assert result["segments"] > 10
    assert 5 < result["erases"] < most


def test_acknowledged_records_wear_the_flash_less(micropython: MicroPython) -> None:
    result = last_line(micropython.run("ring_wear.py", "1", "1"))
    assert result["segments"] == 0
    assert 5 < result["erases"] < 30  # measured: 23


# What one step may take of a chip's time [ms], at 0.1 ms a read and 50 ms an erase, beside two
# releases of the firmware. A spill and a start are named: docs/firmware.md.
STEP_MS, SPILL_MS, START_MS = 250, 1000, 2500


def check_costs(phases: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Hold the bounds; gives the phases by name."""
    found = {phase["phase"]: phase for phase in phases}
    for phase in phases:
        for what, bound in ("commit", STEP_MS), ("spill", SPILL_MS), ("start", START_MS):
            most_ms = phase.get(what, [0, 0, 0, 0])[3]
            assert most_ms <= bound, (phase["phase"], what, most_ms)
    out = found["out"]
    times, reads, erases, most_ms = out["batch"]
    assert erases == out["ack"][2] == 0
    assert (reads + out["ack"][1]) / times < 150  # 1,600 when each record was a read of its own
    assert most_ms + out["ack"][3] < 100
    assert out["gone"] > 1000
    assert found["outage"]["segments"] > 10
    assert found["full"]["dropped"] > 100
    return found


def run_costs(micropython: MicroPython, *args: int) -> list[dict[str, Any]]:
    output = micropython.run("ring_costs.py", *map(str, args), timeout_s=300)
    return [json.loads(line) for line in output.splitlines()]


def test_ring_costs_few_reads(micropython: MicroPython) -> None:
    found = check_costs(run_costs(micropython, 2000, 3500, 24))
    assert found["start"]["segments"] > 15


@pytest.mark.slow
def test_ring_of_64_segments_costs_few_reads(micropython: MicroPython) -> None:
    found = check_costs(run_costs(micropython, 7000, 9000, 64))
    assert found["start"]["segments"] > 60


def test_ring_of_earlier_firmware_is_taken_over(micropython: MicroPython) -> None:
    result = last_line(micropython.run("ring_upgrade.py"))
    assert result["left"] == []
    assert result["segments"] > 3
    assert result["slots"] > 3
    assert result["missing"] == []
    assert result["errors"] == 0


def test_firmware_scripts_run_without_rights(micropython: MicroPython) -> None:
    """The unix port's / is the host's root until a script unmounts it: never run as root."""
    process: subprocess.Popen[str] = micropython.start("whoami.py")
    output, _ = process.communicate(timeout=10)
    assert "refused" in output
