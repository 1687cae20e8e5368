"""What is left of a run when it is over: for reports."""

from __future__ import annotations

from dataclasses import dataclass, field

from tools.hil.judgement import Judgement
from tools.hil.replay import Report
from tools.hil.scenario import Scenario


@dataclass(frozen=True)
class Moment:
    """Something that was done at t_s [s]; kind: fault, heal or note."""

    t_s: float
    kind: str
    what: str


@dataclass
class Run:
    """A scenario's run, with all that a report shows. sent, arrived: (t_s, lane) of each."""

    scenario: Scenario
    seconds: float
    began_ns: int
    moments: list[Moment] = field(default_factory=list)
    depth: list[tuple[float, int]] = field(default_factory=list)
    sent: list[tuple[float, str]] = field(default_factory=list)
    arrived: list[tuple[float, str]] = field(default_factory=list)
    replays: list[Report] = field(default_factory=list)
    logs: dict[str, str] = field(default_factory=dict)
    troubles: list[str] = field(default_factory=list)
    judgement: Judgement | None = None

    @property
    def verdict(self) -> Judgement:
        """The verdict; RuntimeError before there is one."""
        if self.judgement is None:
            raise RuntimeError("not judged yet")
        return self.judgement
