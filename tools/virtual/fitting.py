"""Which part plays which kind of sensor. Adding a kind is one class and one row."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tools.virtual import parts, parts_bus
from tools.virtual.world import World

PARTS: dict[str, type[parts.Part]] = {
    "dht11": parts.Dht,
    "dht22": parts.Dht,
    "ds18b20": parts.Ds18b20,
    "adc": parts.Analog,
    "contact": parts.Digital,
    "pir": parts.Digital,
    "pulse": parts.Digital,
    "sht3x": parts_bus.Sht3x,
    "sht4x": parts_bus.Sht4x,
    "scd4x": parts_bus.Scd4x,
    "bme280": parts_bus.Bme280,
    "hx711": parts_bus.Hx711,
}


def fit(world: World, settings: Mapping[str, Any]) -> parts.Part | None:
    """Give the part for one sensor of the board's settings, or None for a kind without one."""
    kind = PARTS.get(str(settings.get("kind", "")))
    place = str(settings.get("name", settings.get("kind", "")))
    return kind(world, place, settings) if kind else None
