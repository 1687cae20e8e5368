"""When sensors are read, and read again where they fail, on CPython."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from node.sensor import Sampler, Sensor


class Flaky(Sensor):
    UNITS = (("x", ""),)
    WARM_MS = 10

    def open(self, settings: Any, board: Any) -> None:
        self.fail = settings["fail"]
        self.reads: list[str] = []

    def read(self) -> tuple[int]:
        self.reads.append("read")
        if self.fail:
            self.fail -= 1
            raise Exception("bare, as drivers do")
        return (1,)


@pytest.mark.parametrize(("fail", "records"), [(0, 10), (1, 10), (2, 10), (3, 9), (100, 0)])
def test_sampler_tries_again_counts_and_gives_up_for_this_time(fail: int, records: int) -> None:
    sensor = Flaky({"name": "a", "kind": "b", "period_s": 10, "fail": fail}, None)
    got: list[Any] = []
    sampler = Sampler([sensor], lambda *record: got.append(record))
    for now in range(0, 100_000, 10):
        sampler.step(now)
    assert len(got) == records
    assert sensor.errors >= min(fail, 20)


def test_sampler_says_that_a_reading_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    def refuse(*_: Any) -> None:
        raise ValueError("record is 61 bytes too long")

    sensor = Flaky({"name": "a", "kind": "b", "period_s": 10, "fail": 0}, None)
    sampler = Sampler([sensor], refuse)
    for now in range(0, 30_000, 10):
        sampler.step(now)
    said = capsys.readouterr().out.splitlines()
    assert set(said) == {"sensor a ValueError record is 61 bytes too long"}
    assert len(said) == 2  # three tries, and then the next period


def test_sampler_keeps_the_period_and_reads_at_once_when_asked() -> None:
    sensor = Flaky({"name": "a", "kind": "b", "period_s": 1, "fail": 0}, None)
    got: list[int] = []
    sampler = Sampler([sensor], lambda now, *_: got.append(now))
    for now in range(0, 5000, 3):
        sampler.step(now)
    assert len(got) == 5
    assert all(abs(b - a - 1000) <= 6 for a, b in pairwise(got))
    sampler.read_now("nobody")
    assert len(got) == 5
    assert sampler.read_now("a") == 1
    sampler.step(5000)
    sampler.step(5010)
    assert len(got) == 6
