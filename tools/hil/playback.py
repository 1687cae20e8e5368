"""Values out of a recording for the sensors of virtual boards.

Understood are the contract's batches (`tidegate/<device>/up`), the records that the gateway
publishes (`tidegate/<device>/data/<sensor>`), and foreign messages whose payload is one flat JSON
object; what a world knows as a quantity (`temperature_c`, `humidity_pct`, …) is played.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tools.hil.recording import Event, RecordingError, read
from tools.virtual.world import DEFAULTS, World


class Step(NamedTuple):
    """At t [ns] a place has these values; place "" is every place."""

    t_ns: int
    place: str
    values: dict[str, float]


def _quantities(values: Any) -> dict[str, float]:
    if not isinstance(values, dict):
        return {}
    return {name: float(value) for name, value in values.items()
            if name in DEFAULTS and isinstance(value, (int, float))
            and not isinstance(value, bool)}


def steps(event: Event) -> Iterator[Step]:
    """Give what an event says of the world."""
    if event.e != "publish":
        return
    try:
        data = json.loads(event.payload)
    except ValueError:
        return
    if not isinstance(data, dict):
        return
    if isinstance(data.get("recs"), list):
        now_ms = data.get("now")
        for record in data["recs"]:
            values = _quantities(record[2]) if len(record) == 3 else {}
            if values:
                age_ms = now_ms - record[0] if isinstance(now_ms, (int, float)) else 0
                yield Step(max(0, event.t - int(age_ms * 1e6)), str(record[1]), values)
    else:
        own = isinstance(data.get("values"), dict)
        values = _quantities(data["values"] if own else data)
        if values:
            yield Step(event.t, str(data.get("sensor", "")) if own else "", values)


class Playback:
    """Sets a world's quantities as a recording goes by. places: what place "" stands for."""

    def __init__(self, recording: Path, world: World,
                 places: tuple[str, ...] = ("air", "flow", "soil")) -> None:
        self._world, self._places = world, places
        self.steps = sorted((step for event in read(recording) for step in steps(event)),
                            key=lambda step: step.t_ns)
        if not self.steps:
            raise RecordingError(f"{recording}: no values in it that a sensor could feel")

    async def run(self, speed: float = 1.0) -> None:
        """Play it, each value at its time; the last stay."""
        began_ns = time.monotonic_ns()
        for step in self.steps:
            wait_s = (began_ns + step.t_ns / speed - time.monotonic_ns()) / 1e9
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            for place in (step.place,) if step.place else self._places:
                self._world.set(place, **step.values)
