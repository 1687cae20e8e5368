"""What a real board's sensors feel, on its way there: numbered, repeated, never stale."""

from __future__ import annotations

import queue
from collections.abc import Iterator

import pytest

from tools.hil import feeder
from tools.hil.feeder import Feeder
from tools.hil.loan import settings, unit_of

FIRST = {"air": {"temperature_c": 20.0, "humidity_pct": 50.0}, "flow": {"temperature_c": 5.0}}


class Board:
    """The far end of a console."""

    def __init__(self) -> None:
        self.came: queue.Queue[str] = queue.Queue()
        self.deaf = False
        self.feeder = Feeder(FIRST, self.type_in)

    def type_in(self, data: bytes) -> None:
        if self.deaf:
            self.deaf = False
            raise OSError("not plugged in")
        self.came.put(data.decode())

    def next(self) -> str:
        return self.came.get(timeout=10)

    def answer(self) -> str:
        line = self.next()
        self.feeder.heard(f"felt {line.split()[1]}")
        return line


@pytest.fixture
def board() -> Iterator[Board]:
    made = Board()
    made.feeder.start()
    yield made
    made.feeder.stop()


def test_first_values_and_each_new_one_are_fed_in_the_order_of_names(board: Board) -> None:
    assert board.answer() == "feel 1 air 50 20\n"
    assert board.answer() == "feel 2 flow 5\n"
    board.feeder.set("air", temperature_c=-1.25, unknown=3)
    assert board.answer() == "feel 3 air 50 -1.25\n"
    assert (board.feeder.felt, board.feeder.passed_over) == (3, 0)


def test_unanswered_is_sent_again_with_its_number(board: Board, monkeypatch: pytest.MonkeyPatch
                                                  ) -> None:
    monkeypatch.setattr(feeder, "AGAIN_S", 0.01)
    first = board.next()
    board.deaf = True
    board.feeder.heard("felt 7")  # not this one
    board.feeder.heard("felt ")
    assert board.next() == first
    board.feeder.heard("felt 1")
    while (line := board.next()) == first:
        pass
    assert line == "feel 2 flow 5\n"


def test_what_could_not_be_sent_in_time_is_passed_over(board: Board) -> None:
    board.next()
    for number in range(5):
        board.feeder.set("air", temperature_c=number)
    board.feeder.heard("felt 1")
    assert board.answer() == "feel 2 flow 5\n"
    assert board.answer() == "feel 3 air 50 4\n"
    assert board.feeder.passed_over == 4


def test_what_no_sensor_feels_is_not_sent(board: Board) -> None:
    board.answer()
    board.answer()
    board.feeder.set("moon", temperature_c=1)
    board.feeder.set("flow", humidity_pct=1)
    board.feeder.set("flow", temperature_c=6)
    assert board.answer() == "feel 3 flow 6\n"


def test_settings_of_a_board_on_loan_keep_its_wifi() -> None:
    own = {"board": "esp32-devkitc", "wifi": {"ssid": "home", "password": "p"}, "qos": 1}
    found = settings(own, "bench-1", "192.0.2.10", 4711, board_sensors(), 0.5)
    assert found["wifi"] == own["wifi"]
    assert found["board"] == "esp32-devkitc"
    assert found["gateway"]["host"] == "192.0.2.10"
    assert found["sensors"][0] == {
        "kind": "playback", "name": "air", "period_s": 0.5,
        "values": {"humidity_pct": "%", "temperature_c": "°C"}}
    assert unit_of("odd") == ""


def board_sensors() -> dict[str, list[str]]:
    return {name: list(values) for name, values in Feeder(FIRST, lambda data: None)
            .sensors.items()}
