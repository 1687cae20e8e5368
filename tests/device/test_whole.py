"""The whole firmware on a virtual board: heap, commands, safe mode, sleep, button."""

from __future__ import annotations

import json
import math
import re
import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_broker import FakeBroker, Manner, publish
from test_link import certificate

from tools.virtual.board import VirtualBoard
from tools.virtual.network import Network

SENSORS = [
    {"kind": "dht22", "name": "air", "pin": 4, "period_s": 0.2},
    {"kind": "adc", "name": "soil", "pin": 34, "period_s": 0.05},
    {"kind": "ds18b20", "name": "water", "pin": 5, "period_s": 0.2},
    {"kind": "chip", "name": "chip", "period_s": 1},
]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return tmp_path / "flash.img"


@pytest.fixture
def fake() -> Iterator[FakeBroker]:
    broker = FakeBroker([Manner()])
    yield broker
    broker.close()


def config(fake: FakeBroker, **more: Any) -> dict[str, Any]:
    return {
        "device": "dev", "wifi": {"ssid": "home", "password": "secret"}, "tell": True,
        "gateway": {"host": "127.0.0.1", "port": fake.port}, "hold_ms": 100,
        "sensors": SENSORS[:3], **more,
    }  # fmt: skip


def segments(fake: FakeBroker) -> list[int]:
    """Give how many segments lay on flash, by the board's health records."""
    records = [record for batch in fake.wait_for("up") for record in batch["recs"]]
    return [record[2]["segments"] for record in records if record[1] == "health"]


def test_three_sensors_and_a_full_ring_fit_64_kb(fake: FakeBroker, image: Path) -> None:
    # Ten seconds of 30 records first: more than RAM holds.
    fake.manners = [Manner(silent=True), Manner(silent=True), Manner()]
    settings = config(fake, health_s=1, tell=False, hold_ms=10)
    with VirtualBoard(image=image, files=Path("device"), config=settings, heap_kb=64) as board:
        board.wait(r"^online", timeout_s=30)
        assert fake.wait_for("about")[0]["sensors"].keys() == {"air", "soil", "water"}
        held = fake.wait_for("up")[0]
        with fake.news:  # RAM was full: what was in it went to flash as a segment
            assert fake.news.wait_for(lambda: max(segments(fake), default=0) > 0, 20)
        board.wait(r"^heap low", after=board.console.mark())
        lines = list(board.console.lines)
        board.power_cut()
    assert held["seq"] == 1
    lows = [int(line.split()[2]) for line in lines if line.startswith("heap low ")]
    assert min(lows) > 500
    assert not [line for line in lines if "Memory" in line or "too low" in line]
    assert fake.holes == 0


def test_told_records_arrive_after_a_power_cut(fake: FakeBroker, image: Path) -> None:
    fake.manners = [Manner(silent=True), Manner()]
    told: list[tuple[int, int]] = []

    def hear(line: str) -> None:
        found = re.match(r"rec \w+ (\d+) (\d+)$", line)
        if found:
            told.append((int(found[1]), int(found[2])))

    settings = config(fake)
    with VirtualBoard(
        image=image, files=Path("device"), config=settings, heap_kb=96, on_line=hear
    ) as board:
        board.wait(r"^rec \w+ 1 30$")
        board.power_cut()
        cut_at = len(told)
        board.power_on()
        board.wait(r"^online")
        board.wait(r"^rec \w+ 2 20$")
        first = [record for record in told[:cut_at] if record[0] == 1]
        fake.wait_until(lambda: set(first) <= set(fake.records))
        board.power_cut()
    assert len(first) >= 30
    assert set(first) <= set(fake.records)
    assert len(fake.records) == len(set(fake.records))
    assert fake.holes == 0


def test_commands_are_done_and_answered(fake: FakeBroker, image: Path) -> None:
    commands = [
        {"id": 1, "cmd": "heap"},
        {"id": 2, "cmd": "period", "sensor": "soil", "period_s": 7},
        {"id": 3, "cmd": "dance"},
        {"id": 4, "cmd": "period", "sensor": "nobody", "period_s": 7},
    ]
    fake.manners = [
        Manner(first=b"".join(
            publish("tidegate/dev/down/cmd", json.dumps(command).encode()) for command in commands
        ))
    ]  # fmt: skip
    with VirtualBoard(
        image=image, files=Path("device"), config=config(fake), heap_kb=96
    ) as board:
        board.wait(r"^heap low")
        answers = fake.wait_for("answer", 4)
        abouts = fake.wait_for("about", 2)
    assert [(answer["id"], answer["ok"]) for answer in answers] == [
        (1, True), (2, True), (3, False), (4, False)
    ]  # fmt: skip
    assert answers[0]["low_b"] > 0
    assert abouts[-1]["sensors"]["soil"]["period_s"] == 7


def test_five_bad_boots_end_in_safe_mode_that_talks(fake: FakeBroker, image: Path) -> None:
    from tools import firmware

    files = dict(firmware.collect())
    files["node/sensors/bad.py"] = (
        b"import machine\nfrom node.sensor import Sensor\n"
        b"class Bad(Sensor):\n    def start(self):\n        machine.reset()\nmake = Bad\n"
    )
    settings = config(fake, sensors=[{"kind": "bad", "name": "bad", "period_s": 1}])
    with VirtualBoard(
        image=image, files=firmware.laid_out(files), config=settings, heap_kb=96
    ) as board:
        board.wait(r"^safe mode after 5", timeout_s=20)
        about = fake.wait_for("about")[0]
    assert about["safe"] is True
    assert about["sensors"] == {}


def test_board_sleeps_when_all_is_acknowledged(fake: FakeBroker, image: Path) -> None:
    settings = config(fake, sleep_s=1, sensors=[{"kind": "chip", "period_s": 60}])
    with VirtualBoard(
        image=image, files=Path("device"), config=settings, heap_kb=96
    ) as board:
        board.wait(r"^sleep 1000 ms")
        assert fake.records == [(1, 1)]
        board.wait(r"^rec \w+ 2 1$")  # it woke and counted a boot
        board.wait(r"^sleep 1000 ms", after=board.console.mark())
    assert fake.records == [(1, 1), (2, 1)]
    assert fake.again == 0  # what was acknowledged does not go out once more


def test_goodbye_before_a_sleep_is_heard(fake: FakeBroker, image: Path) -> None:
    settings = config(fake, sleep_s=1, sensors=[{"kind": "chip", "period_s": 60}])
    with VirtualBoard(
        image=image, files=Path("device"), config=settings, heap_kb=96,
        network=Network(latency_ms=100),
    ) as board:
        board.wait(r"^tidegate .* boot 2")  # what was on its way when it slept is lost
        assert fake.disconnects == 1


def test_led_says_how_it_is_and_the_held_button_forgets_the_wifi(
    fake: FakeBroker, image: Path
) -> None:
    settings = config(fake, sensors=[], led={"pin": 2}, button={"pin": 0})
    with VirtualBoard(image=image, files=Path("device"), config=settings, heap_kb=96) as board:
        board.wait(r"^online")
        assert 2 in board.hardware.outputs
        pressed = time.monotonic()
        board.drive(0, 0)
        board.wait(r"^wifi forgotten", timeout_s=30)
        assert time.monotonic() - pressed > 9
        board.drive(0, 1)
        mark = board.console.mark()
        board.wait(r"^tidegate .* boot 2$", after=mark - 1)
        board.power_cut()
        kept = json.loads(board.read_file("/config.json"))
    assert kept["wifi"] == {"ssid": "", "password": ""}
    assert kept["gateway"] == settings["gateway"]


def test_commands_that_move_the_board(fake: FakeBroker, image: Path) -> None:
    commands = [
        {"id": 1, "cmd": "read", "sensor": "chip"},
        {"id": 2, "cmd": "identify", "for_s": 30},
        {"id": 3, "cmd": "identify", "for_s": math.inf},  # 1e400: no integer
        {"id": 4, "cmd": "reboot"},
    ]
    fake.manners = [
        Manner(first=b"".join(
            publish("tidegate/dev/down/cmd",
                    json.dumps(command).replace("Infinity", "1e400").encode())
            for command in commands
        )),
        Manner(),
    ]  # fmt: skip
    settings = config(fake, led={"pin": 2}, sensors=[{"kind": "chip", "period_s": 3600}])
    with VirtualBoard(image=image, files=Path("device"), config=settings, heap_kb=96) as board:
        answers = fake.wait_for("answer", 4)
        board.wait(r"^tidegate .* boot 2$")
        abouts = fake.wait_for("about", 2)
    assert [(answer["id"], answer["ok"]) for answer in answers] == [
        (1, True), (2, True), (3, False), (4, True)
    ]  # fmt: skip
    assert answers[2]["error"].startswith("OverflowError")
    assert answers[0]["count"] == 1
    assert {boot for boot, _ in fake.records} >= {1}
    assert len([record for record in fake.records if record[0] == 1]) >= 2, "read once more"
    assert abouts[-1]["boot"] == 2
    assert abouts[-1]["reset"] == "hard"
    assert abouts[-1]["unhealthy_boots"] <= 1


def test_health_record_says_how_the_board_is(fake: FakeBroker, image: Path) -> None:
    broken = {"kind": "dht22", "name": "gone", "pin": 18, "period_s": 1}
    settings = config(fake, health_s=1, sensors=[broken])
    with VirtualBoard(image=image, files=Path("device"), config=settings, heap_kb=96) as board:
        board.world.break_sensor("gone")
        board.wait(r"^sensor gone ")
        board.wait(r"^heap low", after=board.console.mark())
        ups = fake.wait_for("up", 4)
    found = [values for up in ups for _, name, values in up["recs"] if name == "health"]
    assert found
    assert set(found[-1]) == {
        "heap_free_b", "heap_low_b", "rssi_dbm", "connects", "wifi_lost", "unacked", "segments",
        "dropped", "sensor_errors", "flash_errors",
    }  # fmt: skip
    assert found[-1]["connects"] == 1
    assert found[-1]["rssi_dbm"] < 0
    assert found[-1]["sensor_errors"] >= 1


def test_tls_with_an_authority_sets_a_clock_that_knows_no_date(tmp_path: Path) -> None:
    from tools import firmware

    both, der = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    fake = FakeBroker([Manner()], tls=context)
    settings = config(fake, sensors=[{"kind": "chip", "period_s": 1}])
    settings["gateway"]["tls"] = {"ca": "/ca.der", "date": [2026, 11, 24]}
    files = {**firmware.laid_out(firmware.collect()), "ca.der": der.read_bytes()}
    with VirtualBoard(
        image=tmp_path / "flash.img", files=files, config=settings, heap_kb=128
    ) as board:
        assert board.hardware.answer("rtc", [None])[:3] == [2000, 1, 1]
        board.wait("^online")
        assert fake.wait_for("up")[0]["recs"]
        assert board.hardware.answer("rtc", [None])[:3] == [2026, 11, 24]
    fake.close()
