"""How long things take between a virtual board and its servers, and in what pieces they come.

Nothing on a radio is done by the first look, as it is on loopback: so every virtual board has
`Network()` unless it is given another. TIDEGATE_NETWORK replaces that default, for a run of the
tests over a worse one: TIDEGATE_NETWORK="latency_ms=150 jitter_ms=100 piece_bytes=60".
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, fields
from typing import Any

ENVIRONMENT = "TIDEGATE_NETWORK"
MOST_PIECES = 32  # of what comes in one read: a large message does not take seconds


@dataclass(frozen=True)
class Network:
    """A path.

    latency_ms: one way, so that a connect takes it twice; each piece takes up to jitter_ms more.
    piece_bytes: the most that goes in one segment, and that the board reads or writes at once; 0:
    any. rest_ms: how long the board's socket gives or takes nothing after that. names_ms: how
    long a name takes to be looked up; an address takes none.
    """

    latency_ms: float = 10.0
    jitter_ms: float = 5.0
    piece_bytes: int = 200
    rest_ms: int = 1
    names_ms: float = 30.0

    @property
    def at_once(self) -> bool:
        """Say whether it is loopback as it is: the board then has the machine's own sockets."""
        return self == AT_ONCE

    def delay_s(self, chance: random.Random) -> float:
        """Draw how long the next piece takes [s]."""
        return (self.latency_ms + self.jitter_ms * chance.random()) / 1000

    def cut(self, data: bytes, chance: random.Random) -> list[bytes]:
        """Cut what was sent at once into segments."""
        if not self.piece_bytes:
            return [data]
        most = max(self.piece_bytes, 2 * len(data) // MOST_PIECES)
        pieces, at = [], 0
        while at < len(data):
            size = chance.randint(1, most)
            pieces.append(data[at : at + size])
            at += size
        return pieces


AT_ONCE = Network(latency_ms=0, jitter_ms=0, piece_bytes=0, rest_ms=0, names_ms=0)


def default() -> Network:
    """Give the network that boards have by default. ValueError where the environment is wrong."""
    known = [field.name for field in fields(Network)]
    given: dict[str, Any] = {}
    for word in os.environ.get(ENVIRONMENT, "").split():
        name, _, value = word.partition("=")
        if name not in known or not value.isdecimal():
            want = ", ".join(known)
            raise ValueError(f"{ENVIRONMENT}: {word!r}: want {want}, each with =NUMBER")
        given[name] = int(value)
    return Network(**given)
