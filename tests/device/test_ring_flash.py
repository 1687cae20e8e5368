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
    [(1, 60), (3, 30)],  # measured: 50 and 22
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


def test_firmware_scripts_run_without_rights(micropython: MicroPython) -> None:
    """The unix port's / is the host's root until a script unmounts it: never run as root."""
    process: subprocess.Popen[str] = micropython.start("whoami.py")
    output, _ = process.communicate(timeout=10)
    assert "refused" in output
