"""Recorded values on the way to sensors, and a recording as a scenario's traffic."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tools.hil.bench import Bench
from tools.hil.playback import Playback, Step, steps
from tools.hil.record import import_log_file
from tools.hil.recording import RecordingError, create, new_header, publish_event
from tools.hil.run import run_scenario
from tools.hil.scenario import parse
from tools.virtual.world import World

LOG = Path(__file__).parent / "greenhouse.log"
UP = {"v": 1, "now": 5000, "recs": [[4000, "air", {"temperature_c": 3.5, "odd": 1}],
                                    [4900, "soil", {"voltage_v": 1.25}]]}
DATA = {"sensor": "air", "values": {"temperature_c": -2, "humidity_pct": True}}


@pytest.mark.parametrize(("payload", "found"), [
    (UP, [Step(1_000_000_000, "air", {"temperature_c": 3.5}),
          Step(1_900_000_000, "soil", {"voltage_v": 1.25})]),
    (DATA, [Step(2_000_000_000, "air", {"temperature_c": -2.0})]),
    ({"temperature_c": 7, "name": "x"}, [Step(2_000_000_000, "", {"temperature_c": 7.0})]),
    ([1], []), ("text", []), ({"recs": [[1]]}, []),
])
def test_steps_of_a_message(payload: object, found: list[Step]) -> None:
    event = publish_event(2_000_000_000, "d", "t", json.dumps(payload).encode())
    assert list(steps(event)) == found


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "greenhouse.jsonl"
    with create(path, new_header("log")) as writer:
        for event in import_log_file(LOG, client_level=2):
            writer.write(event)
    return path


def test_playback_sets_the_world(recording: Path) -> None:
    world = World()
    asyncio.run(Playback(recording).run(world, speed=1000))
    last = json.loads(LOG.read_text().splitlines()[58])["payload"]
    assert world.get("air", "temperature_c") == json.loads(last)["temperature_c"]
    assert world.get("flow", "humidity_pct") == json.loads(last)["humidity_pct"]


def test_playback_without_values_is_refused(tmp_path: Path) -> None:
    with create(tmp_path / "r", new_header("test")) as writer:
        writer.write(publish_event(0, "c", "t", b"on"))
    with pytest.raises(RecordingError, match="no values"):
        Playback(tmp_path / "r")


def playback_of(path: Path, *payloads: object) -> Playback:
    with create(path, new_header("test")) as writer:
        for number, payload in enumerate(payloads):
            writer.write(publish_event(number * 1000, "c", "t", json.dumps(payload).encode()))
    return Playback(path, {"temp-C": "temperature_c", "lux": "light_lx"})


def test_playback_names_what_a_recording_calls_otherwise(tmp_path: Path) -> None:
    found = playback_of(tmp_path / "r", {"temp-C": 3, "hum": 4}, {"lux": 5}, {"temp-C": 6})
    assert [step.values for step in found.steps] == [
        {"temperature_c": 3.0}, {"light_lx": 5.0}, {"temperature_c": 6.0}]
    assert found.at_first() == {"air": {"temperature_c": 3.0, "light_lx": 5.0}}


def test_playback_at_first_by_place(tmp_path: Path) -> None:
    found = playback_of(tmp_path / "r", DATA, {"sensor": "bed", "values": {"lux": 7}}, {"lux": 8},
                        {"sensor": "air", "values": {"temperature_c": 9}})
    assert found.at_first() == {"air": {"temperature_c": -2.0, "light_lx": 8.0},
                                "bed": {"light_lx": 7.0}}


def test_recording_as_traffic_passes(recording: Path, tmp_path: Path) -> None:
    text = (f'title = "a recording"\nseconds = 1.6\n'
            f'expect = ["lost = 0", "duplicated = 0", "reordered = 0", "delivered = 60",'
            f' "wrong_retain = 0", "invented = 0"]\n'
            f'[[traffic]]\nrecording = "{recording.name}"\nspeed = 20\nlate_p99_ms = 5000\n')
    found = asyncio.run(run_scenario(parse(text, "s", recording.parent), tmp_path / "run",
                                     Bench.virtual())).verdict
    assert found.outcome == "PASS", (found.line, found.offences)
