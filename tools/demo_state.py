"""What the demo knows at a moment: written by the chain's parts, read by the view."""

from __future__ import annotations

import json
import threading
import time
from collections import deque
from dataclasses import dataclass, field

from tools.arrival import Arrival, record_of, told_record
from tools.verdict import Record

STORY_LINES = 12


@dataclass
class DeviceState:
    """One board as seen from both ends: its own console, and what came out upstream."""

    name: str
    presence: str = "unknown"
    power: bool = False
    boot: int = 0
    told: int = 0
    arrived: int = 0
    seq: int = 0
    values: dict[str, str] = field(default_factory=dict)


@dataclass
class Event:
    """A line of the story; at_s counts from the start of the show. kind: fault, heal, note."""

    at_s: float
    kind: str
    text: str


class DemoState:
    """Safe from any thread: hold `lock` to read more than one thing."""

    def __init__(self, names: list[str]) -> None:
        self.lock = threading.RLock()
        self.devices = {name: DeviceState(name) for name in names}
        self.story: deque[Event] = deque(maxlen=STORY_LINES)
        self.events: list[Event] = []
        self.upstream_up = False
        self.gateway_up = False
        self.gateway_presence = "unknown"
        self.depth: int | None = None
        self.arrived = 0
        self.at_qos_2 = 0
        self.start_s = time.monotonic()
        self.length_s = 0.0
        self._told: list[Record] = []
        self._told_set: set[Record] = set()
        self._end_s: float | None = None

    @property
    def now_s(self) -> float:
        """Seconds since the start of the show, or until it was frozen."""
        return (self._end_s or time.monotonic()) - self.start_s

    @property
    def frozen(self) -> bool:
        """Whether the show is over."""
        return self._end_s is not None

    def freeze(self) -> None:
        """Let the picture stay as it is; what is stopped after the show would change it."""
        with self.lock:
            self._end_s = time.monotonic()

    def told(self) -> list[Record]:
        """Return what the boards have told of so far, in order."""
        with self.lock:
            return list(self._told)

    def note(self, kind: str, text: str) -> None:
        """Add a line to the story."""
        with self.lock:
            event = Event(self.now_s, kind, text)
            self.story.append(event)
            self.events.append(event)

    def console_line(self, device: str, line: str) -> None:
        """Take a line of a board's console."""
        record = told_record(device, line)
        if record is None:
            return
        with self.lock:
            if record in self._told_set:
                return  # told again after a power cut: the same reading
            self._told.append(record)
            self._told_set.add(record)
            state = self.devices[device]
            state.told += 1
            state.boot, state.seq = record.boot, record.seq

    def arrival(self, arrival: Arrival) -> None:
        """Take a message that came out upstream."""
        words = arrival.topic.split("/")
        with self.lock:
            if self._end_s is not None:
                return
            if len(words) == 4 and words[1] == "gateway" and words[3] == "status":
                self.gateway_presence = arrival.payload.decode(errors="replace")
                return
            state = self.devices.get(words[1]) if len(words) > 2 else None
            if state is None:
                return
            if words[2] == "status":
                state.presence = arrival.payload.decode(errors="replace")
            elif words[2] == "data" and record_of(arrival.payload) is not None:
                self.arrived += 1
                self.at_qos_2 += arrival.qos == 2
                state.arrived += 1
                data = json.loads(arrival.payload)
                for name, value in dict(data.get("values", {})).items():
                    state.values[f"{data.get('sensor')}.{name}"] = show_value(name, value)


UNITS = {"c": "°C", "pct": "%", "v": "V", "hpa": "hPa", "ppm": "ppm", "raw": ""}


def show_value(name: str, value: object) -> str:
    """Return a value with the unit that its name ends in: temperature_c 21.5 → 21.5 °C."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    unit = UNITS.get(name.rpartition("_")[2], "")
    return f"{value:.1f} {unit}".strip()
