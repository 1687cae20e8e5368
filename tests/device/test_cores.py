"""The small pure parts of the firmware, on CPython: clock, backoff, records, settings."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from node.clock import Backoff, Uptime
from node.records import MAX_RECORD, Shapes, encode, render
from node.recover import take_shapes
from node.settings import SettingsError, check

KEYS = ("temperature_c", "humidity_pct")
WRAP = 1 << 30


def ticks_diff(later: int, earlier: int) -> int:
    return (later - earlier + WRAP // 2) % WRAP - WRAP // 2


@given(st.integers(0, WRAP - 1), st.lists(st.integers(0, WRAP // 2 - 1), max_size=50))
def test_uptime_counts_on_when_ticks_wrap(start: int, steps: list[int]) -> None:
    ticks = start
    uptime = Uptime(lambda: ticks, ticks_diff)
    total = 0
    for step in steps:
        ticks = (ticks + step) % WRAP
        total += step
        assert uptime.now() == total


def test_uptime_never_goes_back() -> None:
    ticks = 1000
    uptime = Uptime(lambda: ticks, ticks_diff)
    ticks = 900
    assert uptime.now() == 0
    ticks = 1010
    assert uptime.now() == 10


@given(st.integers(1, 40), st.floats(0, 1, exclude_max=True))
def test_backoff_stays_between_zero_and_its_growing_cap(tries: int, rand: float) -> None:
    backoff = Backoff(500, 30000)
    for number in range(tries):
        assert 0 <= backoff.next_ms(rand) < min(30000, 500 << number)
    backoff.reset()
    assert backoff.next_ms(0.999) < 500


def test_backoff_uses_all_of_its_range() -> None:
    backoff = Backoff(1000, 1000)
    rand = random.Random(1).random
    waits = [backoff.next_ms(rand()) for _ in range(1000)]
    assert min(waits) < 20
    assert max(waits) > 980


values = st.one_of(
    st.integers(-(10**6), 10**6),
    st.floats(-1e6, 1e6),
    st.booleans(),
    st.none(),
    st.text("abcü\"\\,\x1e{}", max_size=5),
)


readings = st.dictionaries(st.text("abc_°", min_size=1, max_size=6), values, max_size=5)


@given(st.integers(0, (1 << 40) - 1), readings, st.booleans())
def test_record_comes_back_as_it_went_in(
    uptime: int, reading: dict[str, Any], full: bool
) -> None:
    shapes = Shapes()
    if full:
        for number in range(64):
            shapes.index("other", (str(number),))
    keys, row = tuple(reading), tuple(reading.values())
    record = encode(shapes, uptime, "air", keys, row)
    assert len(record) == record[0] + 1 <= MAX_RECORD
    again = Shapes()
    take_shapes(again, b"".join(shapes.dump()))
    if reading or full:
        assert json.loads(render(again, memoryview(record), 0)) == [uptime, "air", reading]


def test_record_without_a_number_says_null() -> None:
    shapes = Shapes()
    record = encode(shapes, 1, "air", KEYS, (float("nan"), float("inf")))
    assert json.loads(render(shapes, memoryview(record), 0))[2] == dict.fromkeys(KEYS)


def test_record_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="record is 61 bytes too long"):
        encode(Shapes(), 1, "air", ("text",), ("x" * 300,))


GOOD = {"device": "d-1", "gateway": {"host": "10.0.0.2"},
        "sensors": [{"kind": "dht22", "pin": 4, "period_s": 0.5}]}  # fmt: skip


def test_settings_are_filled_up() -> None:
    found = check(json.loads(json.dumps(GOOD)))
    assert found["gateway"]["port"] == 1883
    assert found["hold_ms"] == 1000
    assert found["sensors"][0]["name"] == "dht22"
    assert check({**json.loads(json.dumps(GOOD)), "watchdog_s": 0})["watchdog_s"] == 0
    assert check({**json.loads(json.dumps(GOOD)), "sleep_s": 0.5})["sleep_s"] == 0.5


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"device": "a b"}, 'device: "a b", want 1 to 32 of a-z A-Z 0-9 _ -'),
        ({"device": None}, "device: null, want 1 to 32"),
        ({"gateway": {}}, "gateway.host: null, want text"),
        ({"gateway": {"host": ""}}, "gateway.host: empty"),
        ({"gateway": {"host": "x", "port": 70000}}, "port: 70000, want a whole number from 0"),
        ({"gateway": 5}, "gateway: 5, want an object"),
        ({"qos": 2}, "qos: 2, want a whole number from 0 to 1"),
        ({"qos": True}, "qos: true, want a whole number"),
        ({"delivery": "pigeon"}, 'delivery: "pigeon", want "gateway" or "broker"'),
        ({"sensors": {}}, "sensors: {}, want a list"),
        ({"sensors": [{"kind": "../x"}]}, 'sensors[0].kind: "../x", want'),
        ({"sensors": [{"kind": "adc"}, {"kind": "adc"}]}, "a name that no other sensor has"),
        ({"sensors": [{"kind": "adc", "period_s": 0}]}, "sensors[0].period_s: 0, want a number"),
        ({"ring": {"ram_bytes": 10}}, "ring.ram_bytes: 10, want a whole number from 1024"),
        ({"led": {"pin": "2"}}, 'led.pin: "2", want a whole number'),
        ({"button": {"pin": 2.0}}, "button.pin: 2.0, want a whole number"),
        ({"hold_ms": 500.5}, "hold_ms: 500.5, want a whole number from 0 to 60000"),
        ({"hold_ms": 1000.0}, "hold_ms: 1000.0, want a whole number"),
        ({"qos": 0.5}, "qos: 0.5, want a whole number from 0 to 1"),
        ({"ring": {"ram_bytes": 2048.5}}, "ring.ram_bytes: 2048.5, want a whole number"),
        ({"ring": {"flash_bytes": 8192.5}}, "ring.flash_bytes: 8192.5, want a whole number"),
        ({"gateway": {"host": "h", "keepalive_s": 30.5}}, "keepalive_s: 30.5, want a whole"),
        ({"gateway": {"host": "h", "port": 1883.0}}, "gateway.port: 1883.0, want a whole number"),
        ({"gateway": {"host": "h", "tls": {}}}, "gateway.tls.ca: null, want text"),
        ({"gateway": {"host": "h", "tls": {"ca": 1}}}, "gateway.tls.ca: 1, want text"),
        ({"watchdog_s": 0.0005}, "watchdog_s: 0.0005, want 0 or a number from 1 to 3600"),
        ({"watchdog_s": False}, "watchdog_s: false, want 0 or a number from 1 to 3600"),
    ],
)
def test_bad_settings_get_one_line(change: dict[str, Any], error: str) -> None:
    with pytest.raises(SettingsError) as caught:
        check({**json.loads(json.dumps(GOOD)), **change})
    assert error in str(caught.value)
    assert "\n" not in str(caught.value)
