"""The world around virtual boards: physical quantities that a test sets and sensors feel."""

from __future__ import annotations

import csv
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

Source = float | Callable[[], float]

# What a quantity is where nobody set it: a quiet room.
DEFAULTS: Mapping[str, float] = {
    "temperature_c": 21.0,
    "humidity_pct": 45.0,
    "pressure_hpa": 1013.25,
    "co2_ppm": 600.0,
    "voltage_v": 1.0,
    "chip_c": 40.0,
    "level": 0.0,
    "raw": 0.0,
}


class World:
    """Quantities by place: `world.set("air", temperature_c=21.5)`; safe from any thread.

    A place is a sensor's name in the board's settings. Several boards may share a world.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._places: dict[str, dict[str, Source]] = {}
        self._broken: set[str] = set()

    def set(self, place: str, **quantities: Source) -> None:
        """Set quantities of a place, by name and unit; a function is asked at each reading."""
        with self._lock:
            self._places.setdefault(place, {}).update(quantities)

    def get(self, place: str, quantity: str) -> float:
        """Give a quantity as it is now."""
        with self._lock:
            source = self._places.get(place, {}).get(quantity, DEFAULTS.get(quantity, 0.0))
        return float(source() if callable(source) else source)

    def break_sensor(self, place: str, broken: bool = True) -> None:
        """Pull the sensor of a place off its wires, or put it back."""
        with self._lock:
            (self._broken.add if broken else self._broken.discard)(place)

    def is_broken(self, place: str) -> bool:
        """Say whether the sensor of a place is off its wires."""
        with self._lock:
            return place in self._broken

    def play(
        self, place: str, recording: Path, columns: Mapping[str, str], *, row_s: float = 1.0
    ) -> None:
        """Let quantities follow a recorded CSV, one row every `row_s` [s], over and over.

        columns: quantity → the column's name. A row without a number keeps the last one.
        Raises ValueError where a column is missing or has no number at all.
        """
        with recording.open(newline="") as file:
            rows = list(csv.DictReader(file))
        start = time.monotonic()
        for quantity, column in columns.items():
            series: list[float] = []
            for row in rows:
                try:
                    series.append(float(row[column]))
                except (KeyError, TypeError, ValueError):
                    series += series[-1:]
            if not series:
                raise ValueError(f"{recording.name}: no numbers in a column {column!r}")

            def now(series: list[float] = series) -> float:
                return series[int((time.monotonic() - start) / row_s) % len(series)]

            self.set(place, **{quantity: now})
