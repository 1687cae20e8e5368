"""Settings for a board: what it cannot work with is told in one line, before it is touched."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tools import boards, pins, provision

PLAIN = {"device": "x", "gateway": {"host": "h"}}
SHT = {"kind": "sht4x", "name": "s", "scl": 22, "sda": 21}
DHT = {"kind": "dht22", "name": "d", "pin": 22}


def check(**settings: Any) -> None:
    provision.check({**PLAIN, **settings}, boards.load("virtual"))


@pytest.mark.parametrize(
    ("settings", "line"),
    [
        ({"led": {"pin": 6}}, "led: pin = 6: belongs to the flash on Virtual board"),
        ({"led": {"pin": 24}}, "led: pin = 24: Virtual board has no such GPIO"),
        ({"led": {"pin": 40}}, "led: pin = 40: Virtual board has no such GPIO"),
        ({"led": {"pin": 34}}, "led: pin = 34: can only be an input on Virtual board"),
        ({"button": {"pin": 7}}, "button: pin = 7: belongs to the flash on Virtual board"),
        ({"button": {"pin": 35}}, "button: pin = 35: has no pull-up on Virtual board"),
        ({"button": {"pin": 2}, "led": {"pin": 2}}, "button: pin = 2: taken by led: pin"),
        ({"led": {"pin": 22}, "sensors": [DHT]}, "led: pin = 22: taken by sensor d: pin"),
        ({"button": {"pin": 21}, "sensors": [SHT]}, "button: pin = 21: taken by sensor s: sda"),
        ({"sensors": [DHT, SHT]}, "sensor s: scl = 22: taken by sensor d: pin"),
        ({"sensors": [SHT, DHT]}, "sensor d: pin = 22: taken by sensor s: scl"),
        ({"sensors": [DHT, {**DHT, "name": "b"}]}, "sensor b: pin = 22: taken by sensor d: pin"),
        ({"sensors": [{**SHT, "sda": 22}]}, "sensor s: sda = 22: taken by sensor s: scl"),
        ({"sensors": [{"kind": "adc"}]}, "sensor adc: no pin, want the number of its GPIO"),
        ({"sensors": [{**SHT, "sda": None}]}, "sensor s: no sda, want the number of its GPIO"),
        ({"sensors": [{**DHT, "pin": [4]}]}, "sensor d: pin = [4]: Virtual board has no"),
        ({"sensors": [{**DHT, "pin": 4.0}]}, "sensor d: pin = 4.0: Virtual board has no such"),
        ({"wifi": {"ssid": "lab", "password": "1234567"}},
         "wifi.password: 7 characters, want 8 to 63, or none where the Wi-Fi is open"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_told(settings: dict[str, Any], line: str) -> None:
    with pytest.raises(provision.SettingsError) as caught:
        check(**settings)
    assert str(caught.value).startswith("config.json: " + line)
    assert "\n" not in str(caught.value)


def test_wifi_name_is_measured_in_bytes() -> None:
    check(wifi={"ssid": "🏠" * 8})
    with pytest.raises(provision.SettingsError, match=r"wifi\.ssid: .* at most 32 bytes"):
        check(wifi={"ssid": "🏠" * 9})
    with pytest.raises(provision.SettingsError, match="surrogates not allowed"):
        check(board="\ud83c")


def test_what_may_share_a_pin_does() -> None:
    check(sensors=[SHT, {**SHT, "kind": "bme280", "name": "b"}])
    check(sensors=[{"kind": "ds18b20", "name": name, "pin": 4} for name in "ab"])
    check(wifi={"ssid": "open", "password": ""}, led={"pin": 2}, button={"pin": 0})


def test_every_kind_of_sensor_says_its_pins() -> None:
    assert sorted(pins.PINS_OF) == provision.KINDS


@pytest.mark.parametrize(
    ("board_id", "led"),
    [
        ("lolin-s2-mini", {"pin": 15}),
        ("esp32-c3-supermini", {"pin": 8, "invert": True}),
        ("esp32-c6-devkitc", {"pin": 8, "kind": "neopixel"}),
        ("esp32-devkitc", None),
    ],
)
def test_led_is_told_as_the_firmware_wants_it(board_id: str, led: dict[str, object]) -> None:
    board = boards.load(board_id)
    assert provision.named({"device": "x"}, board).get("led") == led


def test_led_and_button_of_the_board_give_way_to_a_sensor() -> None:
    board = boards.load("virtual")
    on_both = [{**DHT, "pin": 2}, {"kind": "pulse", "name": "b", "pin": "IO0"}]
    found = provision.named({**PLAIN, "sensors": on_both}, board)
    assert "led" not in found
    assert "button" not in found
    provision.check(found, board)


@pytest.mark.parametrize("board_id", boards.names())
def test_led_and_button_of_every_board_pass(board_id: str) -> None:
    board = boards.load(board_id)
    provision.check(provision.named(PLAIN, board), board)
    assert json.dumps(provision.named(PLAIN, board))
