"""One direction of a virtual board's connection: what is on its way, and what has come.

    sent by one end -> on its way, each piece with the time when it is due -> `ready` -> received

The order is kept, as TCP keeps it. The end of the stream travels behind the last byte.
"""

from __future__ import annotations

import random
from collections import deque
from dataclasses import dataclass, field

from tools.virtual.network import Network
from tools.virtual.reactor import Alarm

GAP_S = 0.001  # between two pieces that would come at the same time


@dataclass(eq=False)
class Way:
    """A direction. ended: its sender has; over: so has its receiver; cut: by a reset."""

    network: Network
    chance: random.Random
    ready: bytearray = field(default_factory=bytearray)
    ended: bool = False
    over: bool = False
    cut: bool = False
    alarm: Alarm | None = None
    _moving: deque[tuple[float, bytes | None]] = field(default_factory=deque)
    _bytes: int = 0

    @property
    def held(self) -> int:
        """Count the bytes that are in it."""
        return self._bytes + len(self.ready)

    def send(self, data: bytes, now_s: float) -> None:
        """Take what one end sent."""
        for piece in self.network.cut(data, self.chance):
            self._put(piece, now_s)
        self._bytes += len(data)

    def end(self, now_s: float, *, cut: bool) -> None:
        """Take the end of what is sent; cut: it was a reset."""
        self.ended, self.cut = True, cut
        self._put(None, now_s)

    def clear(self) -> None:
        """Lose what has not come yet."""
        self._moving.clear()
        self.ready.clear()
        self._bytes = 0

    def arrive(self, now_s: float) -> float | None:
        """Let come what is due; give when [s] the next is."""
        while self._moving and self._moving[0][0] <= now_s:
            piece = self._moving.popleft()[1]
            if piece is None:
                self.over = True
            else:
                self.ready += piece
                self._bytes -= len(piece)
        return self._moving[0][0] if self._moving else None

    def _put(self, piece: bytes | None, now_s: float) -> None:
        due_s = now_s + self.network.delay_s(self.chance)
        if self._moving:
            gap_s = GAP_S if self.network.piece_bytes else 0.0
            due_s = max(due_s, self._moving[-1][0] + gap_s)
        self._moving.append((due_s, piece))
