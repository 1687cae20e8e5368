"""A scenario: traffic, faults at set times, and what is expected. One TOML file; docs/hil.md.

Times of faults are fractions of the scenario's length, so that a run can be shortened.
"""

from __future__ import annotations

import operator
import random
import re
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

FOLDER = Path(__file__).resolve().parent.parent.parent / "tests" / "hil" / "scenarios"
_EXPECT = re.compile(r"\s*([a-z][a-z0-9_]*)\s*(<=|>=|=|<|>)\s*(-?\d+(?:\.\d+)?)\s*")
_OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    "=": operator.eq, "<": operator.lt, ">": operator.gt, "<=": operator.le, ">=": operator.ge}
_Count = Annotated[int, Meta(ge=0)]
_Some = Annotated[int, Meta(ge=1)]
_NotNegative = Annotated[float, Meta(ge=0, le=1e9)]
_Positive = Annotated[float, Meta(gt=0, le=1e9)]
_Fraction = Annotated[float, Meta(ge=0, le=1)]


class ScenarioError(Exception):
    """A scenario cannot be read. One line: file, key, what would be right."""


class Traffic(msgspec.Struct, forbid_unknown_fields=True):
    """`[[traffic]]`: clients that publish.

    rate_per_s: of all clients together; 0: as fast as acknowledged, `messages` of them. will:
    whether each has one; vanish: how many end without DISCONNECT when the traffic is over.
    link: `devices`, or `noisy`, a second link to the gateway that faults can ail by itself.
    judged: whether its messages are owed. recording: played instead, beside the scenario's file;
    late_p99_ms: how late its replay may be before the run is INVALID.
    """

    name: str = "dev"
    clients: _Some = 10
    rate_per_s: _NotNegative = 50.0
    messages: _Count = 0
    qos: Literal[0, 1, 2] = 1
    retain: bool = False
    will: bool = False
    vanish: _Count = 0
    payload_bytes: _Count = 80
    link: Literal["devices", "noisy"] = "devices"
    judged: bool = True
    recording: str = ""
    speed: _Positive = 1.0
    late_p99_ms: _NotNegative = 100.0


class Boards(msgspec.Struct, forbid_unknown_fields=True):
    """`[boards]`: boards with the firmware. needs: features that each must have.

    playback: a recording whose values the sensors feel, played `speed` times as fast. values:
    what its own names for values mean, `{"temp-C" = "temperature_c"}`.
    """

    count: _Count = 0
    needs: list[str] = []
    period_s: _Positive = 0.5
    playback: str = ""
    speed: _Positive = 1.0
    values: dict[str, str] = {}


class GatewaySettings(msgspec.Struct, forbid_unknown_fields=True):
    """`[gateway]`. clock_offset_s: how wrong its wall clock is at its start [s]."""

    upgrade: Literal[0, 1, 2] = 2
    inflight: _Count = 0
    clock_offset_s: float = 0.0
    will_grace_s: _NotNegative = 3.0


class Fault(msgspec.Struct, forbid_unknown_fields=True):
    """`[[fault]]`: what is done at which fraction of the length, and taken back at `until`.

    times: so often between `at` and `until`, each for half of its share. link: of link faults.
    """

    do: str
    at: _Fraction
    until: _Fraction = 0.0
    times: _Some = 1
    link: Literal["upstream", "devices", "noisy"] = "upstream"
    latency_ms: _NotNegative = 0.0
    jitter_ms: _NotNegative = 0.0
    bytes_per_s: _NotNegative = 0.0
    corrupt: _Fraction = 0.0
    offset_s: float = 0.0

    @property
    def spans(self) -> list[tuple[float, float]]:
        """Begin and end of each time, as fractions; the end is 0 for what has none."""
        if self.times == 1:
            return [(self.at, self.until)]
        share = (self.until - self.at) / self.times
        return [(self.at + index * share, self.at + (index + 0.5) * share)
                for index in range(self.times)]


class Random(msgspec.Struct, forbid_unknown_fields=True):
    """`[random]`: `count` faults out of `among`, drawn by `seed`, each of `length`."""

    count: _Some
    among: Annotated[list[Fault], Meta(min_length=1)]
    seed: int = 1
    length: _Fraction = 0.05

    def draw(self) -> list[Fault]:
        """Return the faults, one after the other, none overlapping the next."""
        rng = random.Random(self.seed)
        share = 0.8 / self.count
        found = []
        for index in range(self.count):
            at = 0.1 + share * index + rng.random() * max(0.0, share - self.length)
            fault = rng.choice(self.among)
            found.append(msgspec.structs.replace(fault, at=at, until=at + self.length))
        return found


class Expectation(msgspec.Struct):
    """`lost = 0`, `p99_ms < 500`: a measured name, how, and a number."""

    name: str
    how: str
    number: float

    def holds(self, measured: Mapping[str, float]) -> bool:
        """Tell whether it holds; a name that was not measured does not."""
        value = measured.get(self.name)
        return value is not None and _OPERATORS[self.how](value, self.number)

    def __str__(self) -> str:
        return f"{self.name} {self.how} {self.number:g}"


class Scenario(msgspec.Struct, forbid_unknown_fields=True):
    """The whole file. drain_s: how long nothing may arrive before what is missing is lost [s]."""

    title: str
    seconds: _Positive
    expect: list[str]
    name: str = ""
    slow: bool = False
    drain_s: _NotNegative = 8.0
    traffic: list[Traffic] = []
    boards: Boards = msgspec.field(default_factory=Boards)
    gateway: GatewaySettings = msgspec.field(default_factory=GatewaySettings)
    fault: list[Fault] = []
    random: Random | None = None
    folder: str = ""

    @property
    def faults(self) -> list[Fault]:
        """All faults, those drawn included, by time."""
        drawn = self.random.draw() if self.random is not None else []
        return sorted([*self.fault, *drawn], key=lambda fault: fault.at)

    @property
    def expectations(self) -> list[Expectation]:
        """What is expected, parsed. Raises ValueError."""
        return [parse_expectation(text) for text in self.expect]


def parse_expectation(text: str) -> Expectation:
    """Read `name op number`. Raises ValueError."""
    from tools.hil.judgement import MEASURED

    found = _EXPECT.fullmatch(text)
    if found is None:
        raise ValueError(f"expect: {text!r}: something like 'p99_ms < 500' is needed")
    if found[1] not in MEASURED:
        raise ValueError(f"expect: {found[1]!r} is not measured; there are "
                         f"{', '.join(sorted(MEASURED))}")
    return Expectation(found[1], found[2], float(found[3]))


def parse(text: str, name: str, folder: Path) -> Scenario:
    """Read a scenario. Raises ScenarioError."""
    from tools.hil.faults import FAULTS

    try:
        found = msgspec.convert(tomllib.loads(text), Scenario)
        found.name, found.folder = found.name or name, str(folder)
        if not found.expectations:
            raise ValueError("expect: at least one expectation is needed")
        if not found.traffic and not found.boards.count:
            raise ValueError("traffic or boards are needed")
        for fault in found.faults:
            if fault.do not in FAULTS:
                raise ValueError(f"fault.do = {fault.do!r}: one of {', '.join(sorted(FAULTS))} "
                                 "is needed")
            if FAULTS[fault.do].end is not None and not fault.at < fault.until <= 1:
                raise ValueError(f"fault {fault.do}: until = {fault.until}: a fraction above at "
                                 "and at most 1 is needed")
    except (tomllib.TOMLDecodeError, ValueError) as error:  # msgspec's error is a ValueError
        raise ScenarioError(f"{name}.toml: {error}") from error
    return found


def load(path: Path) -> Scenario:
    """Read a scenario's file, or one of ours by its name. Raises ScenarioError."""
    known = FOLDER / f"{path}.toml"
    if not path.suffix and known.is_file():
        path = known
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ScenarioError(f"{path}: {error}; of ours there are {', '.join(names())}") from error
    return parse(text, path.stem, path.parent)


def names() -> list[str]:
    """List the scenarios that come with the project."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))
