"""`tidegate hil` as it is typed: what it writes, says, and exits with."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from tools.hil import run_cli
from tools.hil.cli import hil
from tools.hil.recording import create, new_header, publish_event, read, read_header
from tools.judge import Subscriber
from tools.mosquitto import Mosquitto
from tools.ports import free_port

LOG = Path(__file__).parent / "greenhouse.log"


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path / "broker", persistence=False) as running:
        yield running


def typed(*words: object) -> Result:
    return CliRunner().invoke(hil, [str(word) for word in words])


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    path = tmp_path / "greenhouse.jsonl"
    result = typed("record", "log", LOG, "--client-level", 2, "-o", path)
    assert (result.exit_code, result.output) == (0, "hil: 60 events\n")
    return path


def test_imported_log_began_when_its_first_message_came(recording: Path) -> None:
    first = LOG.read_text().splitlines()[0]
    assert read_header(recording).began[:19] in first
    said = typed("show", recording).output
    assert "60 publish; 3 clients" in said


def test_log_that_is_none_leaves_what_was_there(recording: Path, tmp_path: Path) -> None:
    (tmp_path / "bad").write_text("no JSON\n")
    result = typed("record", "log", tmp_path / "bad", "-o", recording)
    assert result.exit_code == 2
    assert "line 1: not a line of mosquitto_sub" in result.output
    assert len(list(read(recording))) == 60


def kept(folder: Path) -> Path:
    """Make a recording of one retained message."""
    with create(folder / "kept", new_header("test")) as writer:
        writer.write(publish_event(0, "c", "a/b", b"\xff\x00", qos=2, retain=True))
    return folder / "kept"


def test_record_of_a_broker_has_what_came(broker: Mosquitto, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    assert typed("replay", kept(tmp_path), "-p", broker.port).exit_code == 0
    result = typed("record", "broker", "-p", broker.port, "--seconds", 0.3, "--client-level", 1,
                   "-o", path)
    assert result.exit_code == 0
    assert [(event.c, event.topic, event.payload, event.retain) for event in read(path)] == [
        ("a", "a/b", b"\xff\x00", True)]
    assert read_header(path).source == f"broker 127.0.0.1:{broker.port}"


def test_record_of_a_broker_that_is_not_there(tmp_path: Path) -> None:
    result = typed("record", "broker", "-p", free_port(), "-o", tmp_path / "r")
    assert result.exit_code == 2
    assert "refused" in result.output


@pytest.mark.parametrize("wrong", ["a/#/b", "a+", ""])
def test_record_of_what_is_no_topic_filter(broker: Mosquitto, recording: Path, wrong: str) -> None:
    result = typed("record", "broker", "-p", broker.port, "-t", wrong, "--seconds", 0.1,
                   "-o", recording)
    assert result.exit_code == 2
    assert result.output.startswith(f"hil: error: {wrong!r}: not a topic filter")
    assert len(result.output.splitlines()) == 1
    assert len(list(read(recording))) == 60


def test_replay_says_what_it_did(recording: Path, broker: Mosquitto) -> None:
    with Subscriber(broker.port) as judge:
        result = typed("replay", recording, "-p", broker.port, "--speed", 0, "--copies", 2,
                       "--loop", 2)
        judge.wait_for(lambda: len(judge.arrivals) >= 240, 10)
    assert result.exit_code == 0
    assert "240 events of 6 clients in 0." in result.output
    assert "published=240" in result.output
    assert len(judge.arrivals) == 240


def test_replay_to_nobody_says_so_at_once(recording: Path) -> None:
    port = free_port()
    result = typed("replay", recording, "-p", port)
    assert result.exit_code == 2
    assert f"127.0.0.1:{port}: nobody to replay to" in result.output


@pytest.mark.parametrize("words", [
    ("replay", LOG, "--speed", -1), ("replay", LOG, "--loop", 0), ("replay", LOG, "--copies", 0),
    ("replay", LOG, "--port", 99999), ("replay", LOG, "--late-ms", -1),
    ("record", "broker", "--client-level", 0), ("record", "broker", "--port", 0),
    ("record", "broker", "--seconds", 0), ("record", "log", LOG, "--client-level", 0),
    ("record", "gateway", "--device", "1884:99999")])
def test_number_out_of_its_range_is_told_with_the_range(words: tuple[object, ...]) -> None:
    result = typed(*words)
    assert result.exit_code == 2
    assert "is not in the range" in result.output or "two ports" in result.output


def test_replay_that_was_late_is_invalid(recording: Path, broker: Mosquitto) -> None:
    result = typed("replay", recording, "-p", broker.port, "--speed", 100, "--late-ms", 0.0001)
    assert result.exit_code == 3
    assert "INVALID: later than 0.0001 ms at p99" in result.output


def test_replay_of_what_is_no_recording(tmp_path: Path, broker: Mosquitto) -> None:
    result = typed("replay", LOG, "-p", broker.port)
    assert result.exit_code == 2
    assert "`tidegate hil record` imports other logs" in result.output


def test_replay_of_an_empty_recording(tmp_path: Path, broker: Mosquitto) -> None:
    with create(tmp_path / "r", new_header("test")):
        pass
    assert typed("replay", tmp_path / "r", "-p", broker.port).exit_code == 0


def test_scenario_that_no_board_can_is_told_and_the_rest_runs(tmp_path: Path) -> None:
    (tmp_path / "tty").touch()
    (tmp_path / "hil.toml").write_text(f'[[board]]\nname = "x"\nport = "{tmp_path / "tty"}"\n')
    other = tmp_path / "other.toml"
    other.write_text('title = "t"\nseconds = 1\nexpect = ["lost = 0"]\n[[traffic]]\nqos = 1\n'
                     'late_p99_ms = 5000\n')
    result = typed("run", "board-brownout", other, "--hil", tmp_path / "hil.toml", "-q")
    assert result.exit_code == 2
    assert "hil: x: no real board reaches 127.0.0.1" in result.output
    assert "board-brownout did not run: no board with brownout, power: x has no" in result.output
    assert "other" in result.output
    assert "PASS" in result.output


@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nowhere"])
def test_run_says_before_it_runs_that_no_report_can_be_written(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    (tmp_path / "file").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(run_cli, "_one", lambda *_: pytest.fail("it ran"))
    result = typed("run", "broker-restart", "--report", place)
    assert result.exit_code == 2
    assert result.output.startswith(f"hil: error: --report {place}: ")
    assert len(result.output.splitlines()) == 1


@pytest.mark.parametrize(("line", "key"), [
    ("clients = 0", "$.traffic[0].clients"), ("rate_per_s = -5", "$.traffic[0].rate_per_s"),
    ("rate_per_s = inf", "$.traffic[0].rate_per_s"), ("speed = 0", "$.traffic[0].speed"),
    ("[[fault]]\ndo = 'link.cut'\nat = 2", "$.fault[0].at"), ("[boards]\ncount = -1",
                                                             "$.boards.count")])
def test_scenario_with_a_number_that_cannot_be(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: str, key: str) -> None:
    monkeypatch.setattr(run_cli, "_one", lambda *_: pytest.fail("it ran"))
    scenario = tmp_path / "mine.toml"
    scenario.write_text(f'title = "t"\nseconds = 1\nexpect = ["lost = 0"]\n[[traffic]]\n{line}\n')
    result = typed("run", scenario)
    assert result.exit_code == 2
    assert result.output.startswith("hil: error: mine.toml: Expected ")
    assert key in result.output
    assert len(result.output.splitlines()) == 1


def test_run_names_the_faults_that_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run_cli, "_one", lambda *_: pytest.fail("it ran"))
    result = typed("run", "broker-restart", "--fault", "nope")
    assert result.exit_code == 2
    assert "'drop-one'" in result.output
