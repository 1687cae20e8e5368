"""The plan of a crash run, drawn from its seed: what breaks, when the gateway dies. Pure.

A run is a series of *rounds*, each with a fresh outbox and a fresh upstream of one kind, since an
upstream's persistence cannot be changed under it. A round is a series of *lives* of the gateway,
each ended by SIGKILL. The same seed and number of kills give the same plan.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Literal

Broker = Literal["mosquitto", "emqx"]
Protocol = Literal["3.1.1", "5"]
UpstreamKind = Literal["safe", "saving", "forgetful"]
"""safe: keeps its sessions, restarted in good order or not at all; saving: persistent, killed;
forgetful: killed, keeps nothing. See tools/crash_upstream.py."""
DRAWN: tuple[Protocol, ...] = ("3.1.1", "3.1.1", "5")
KINDS: dict[Broker, tuple[UpstreamKind, ...]] = {
    "mosquitto": ("safe", "forgetful", "safe", "saving"),
    "emqx": ("safe", "forgetful"),
}
ROUND_KILLS = 25
WIRE_KINDS = ("PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP")
Trouble = Literal["none", "cut-up", "cut-down", "middle-up", "blackhole-up", "blackhole-down",
                  "throttle-up", "throttle-down", "upstream", "reboot", "flood", "vanish"]
_TROUBLES: dict[Trouble, int] = {
    "none": 30, "cut-up": 10, "cut-down": 6, "middle-up": 8, "blackhole-up": 6,
    "blackhole-down": 4, "throttle-up": 6, "throttle-down": 4, "upstream": 14, "reboot": 4,
    "flood": 5, "vanish": 3,
}


@dataclass(frozen=True, slots=True)
class Life:
    """One life of the gateway.

    trouble: what happens, `at_s` [s] after the start, for `for_s` [s], `amount` being bytes or
    bytes/s. disk: for TIDEGATE_DISK. live_most: for TIDEGATE_LIVE_MOST. The kill comes at
    `kill_s` [s] after the start or, where `kill_on` is set, right before (`kill_late` false) or
    after the `kill_count`-th packet of that kind between gateway and upstream.
    polite_s: it gets SIGTERM so long [s] before, and dies while it ends; 0 for no SIGTERM.
    dead_s: how long it stays dead [s].
    """

    trouble: Trouble
    at_s: float
    for_s: float
    amount: int
    disk: str
    live_most: int
    kill_s: float
    kill_on: str
    kill_count: int
    kill_late: bool
    polite_s: float
    dead_s: float


@dataclass(frozen=True, slots=True)
class Round:
    """One outbox, one upstream, and the lives over them."""

    number: int
    upstream: UpstreamKind
    seed: int
    commit_ms: int
    inflight: int
    protocol: Protocol
    rate: float
    lives: tuple[Life, ...]
    broker: Broker = "mosquitto"


def quiet_round() -> Round:
    """A round in which nothing happens by itself, for those who break things by hand."""
    return Round(1, "safe", 1, commit_ms=250, inflight=1000, protocol="3.1.1", rate=1.0, lives=())


def make_plan(kills: int, seed: int, *, round_kills: int = ROUND_KILLS,
              broker: Broker = "mosquitto", protocol: Protocol | None = None) -> list[Round]:
    """Draw the plan of so many kills; protocol: in every round, instead of drawn ones."""
    rng = random.Random(seed)
    rounds: list[Round] = []
    while kills > 0:
        lives = tuple(_life(rng) for _ in range(min(kills, round_kills)))
        kills -= len(lives)
        kinds = KINDS[broker]
        plan = Round(
            number=len(rounds) + 1,
            upstream=kinds[len(rounds) % len(kinds)],
            seed=rng.randrange(1 << 32),
            commit_ms=rng.choice((0, 20, 250)),
            inflight=rng.choice((10, 100, 1000)),
            protocol=rng.choice(DRAWN),
            rate=rng.choice((0.5, 1.0, 2.0)),
            lives=lives,
            broker=broker,
        )
        rounds.append(plan if protocol is None else replace(plan, protocol=protocol))
    return rounds


def _life(rng: random.Random) -> Life:
    trouble = rng.choices(list(_TROUBLES), list(_TROUBLES.values()))[0]
    disk = ""
    drawn = rng.random()
    if drawn < 0.10:
        disk = f"slow:{rng.uniform(0.01, 0.15):.3f}"
    elif drawn < 0.16:
        disk = f"full:{rng.uniform(0.0, 0.3):.2f}:{rng.uniform(0.1, 0.6):.2f}"
    elif drawn < 0.22:
        disk = f"short:{rng.uniform(0.0, 0.3):.2f}:{rng.uniform(0.1, 0.6):.2f}"
    early = rng.random() < 0.08  # while it starts
    kill_s = rng.uniform(0.0, 0.2) if early else rng.uniform(0.25, 0.9)
    if trouble == "flood":
        kill_s += 0.5
    return Life(
        trouble=trouble,
        at_s=rng.uniform(0.0, 0.5),
        for_s=rng.uniform(0.05, 0.5),
        amount=rng.choice((200, 2000, 20_000)) + rng.randrange(200),
        disk=disk,
        live_most=rng.choice((0, 0, 8, 50)),
        kill_s=kill_s,
        kill_on=rng.choice(WIRE_KINDS) if not early and rng.random() < 0.4 else "",
        kill_count=rng.randrange(1, 120),
        kill_late=rng.random() < 0.5,
        polite_s=rng.uniform(0.001, 0.05) if rng.random() < 0.08 else 0.0,
        dead_s=rng.uniform(0.3, 0.8) if rng.random() < 0.05 else 0.0,
    )
