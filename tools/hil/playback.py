"""Values out of a recording for the sensors of boards.

Understood are the contract's batches (`tidegate/<device>/up`), the records that the gateway
publishes (`tidegate/<device>/data/<sensor>`), and foreign messages whose payload is one flat JSON
object; what a world knows as a quantity (`temperature_c`, `humidity_pct`, …) is played, and what
`names` gives such a name (`{"temp-C": "temperature_c"}`).
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tools.hil.bench_boards import Surroundings
from tools.hil.recording import Event, RecordingError, read
from tools.virtual.world import DEFAULTS

EVERYWHERE = ("air", "flow", "soil")
"""Where a value is felt that names no place, in a recording that names none."""


class Step(NamedTuple):
    """At t [ns] a place has these values; place "" is every place of the recording."""

    t_ns: int
    place: str
    values: dict[str, float]


def _quantities(values: Any, names: Mapping[str, str]) -> dict[str, float]:
    if not isinstance(values, dict):
        return {}
    return {names.get(name, name): float(value) for name, value in values.items()
            if (name in names or name in DEFAULTS) and isinstance(value, (int, float))
            and not isinstance(value, bool)}


def steps(event: Event, names: Mapping[str, str] | None = None) -> Iterator[Step]:
    """Give what an event says of the world. names: of values that are called otherwise in it."""
    names = names or {}
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
            values = _quantities(record[2], names) if len(record) == 3 else {}
            if values:
                age_ms = now_ms - record[0] if isinstance(now_ms, (int, float)) else 0
                yield Step(max(0, event.t - int(age_ms * 1e6)), str(record[1]), values)
    else:
        own = isinstance(data.get("values"), dict)
        values = _quantities(data["values"] if own else data, names)
        if values:
            yield Step(event.t, str(data.get("sensor", "")) if own else "", values)


class Playback:
    """Sets what boards' sensors feel as a recording goes by; see `steps` for names."""

    def __init__(self, recording: Path, names: Mapping[str, str] | None = None) -> None:
        self.steps = sorted((step for event in read(recording) for step in steps(event, names)),
                            key=lambda step: step.t_ns)
        if not self.steps:
            raise RecordingError(f"{recording}: no values in it that a sensor could feel; "
                                 "`values = {\"temp-C\" = \"temperature_c\"}` names some")

    def at_first(self, everywhere: Sequence[str] = ("air",)) -> dict[str, dict[str, float]]:
        """Return the first value of each quantity by place. everywhere: what place "" means.

        Where a recording names places, "" means all of them.
        """
        places = list(dict.fromkeys(step.place for step in self.steps if step.place))
        found: dict[str, dict[str, float]] = {place: {} for place in places or everywhere}
        for step in self.steps:
            for place in (step.place,) if step.place else found:
                found[place] = {**step.values, **found[place]}
        return found

    async def run(self, world: Surroundings, speed: float = 1.0) -> None:
        """Play it, each value at its time; the last stay."""
        places = self.at_first(EVERYWHERE)
        began_ns = time.monotonic_ns()
        for step in self.steps:
            wait_s = (began_ns + step.t_ns / speed - time.monotonic_ns()) / 1e9
            if wait_s > 0:
                await asyncio.sleep(wait_s)
            for place in (step.place,) if step.place else places:
                world.set(place, **step.values)
