"""A histogram of times in constant memory: buckets that grow by 2 %, so percentiles are that good.

It is what lets a million latenesses be told without keeping one of them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

GROWTH = 1.02
_LOG = math.log(GROWTH)
_FLOOR_MS = 0.001


class Histogram:
    """Counts of times [ms]; what is below a microsecond counts as that."""

    def __init__(self, times_ms: Iterable[float] = ()) -> None:
        self.count = 0
        self.max_ms = 0.0
        self._buckets: Counter[int] = Counter()
        for time_ms in times_ms:
            self.add(time_ms)

    def add(self, time_ms: float) -> None:
        """Count one time."""
        self.count += 1
        self.max_ms = max(self.max_ms, time_ms)
        self._buckets[int(math.log(max(time_ms, _FLOOR_MS) / _FLOOR_MS) / _LOG)] += 1

    def percentile(self, percent: float) -> float:
        """Return the time [ms] that `percent` of all are not above, to 2 %; 0 where none is."""
        owed = math.ceil(self.count * percent / 100)
        for bucket in sorted(self._buckets):
            owed -= self._buckets[bucket]
            if owed <= 0:
                return min(self.max_ms, _FLOOR_MS * GROWTH ** (bucket + 1))
        return self.max_ms

    def summary(self) -> dict[str, float]:
        """Return count, p50, p95, p99 and the largest [ms]."""
        return {"count": self.count, "p50_ms": round(self.percentile(50), 3),
                "p95_ms": round(self.percentile(95), 3), "p99_ms": round(self.percentile(99), 3),
                "max_ms": round(self.max_ms, 3)}

    def bars(self, per_decade: int = 8) -> list[tuple[float, float, int]]:
        """Return (from [ms], to [ms], count) on a logarithmic scale, for a chart."""
        found: Counter[int] = Counter()
        for bucket, count in self._buckets.items():
            middle = _FLOOR_MS * GROWTH ** (bucket + 0.5)
            found[math.floor(math.log10(middle) * per_decade)] += count
        if not found:
            return []
        return [(10 ** (step / per_decade), 10 ** ((step + 1) / per_decade), found[step])
                for step in range(min(found), max(found) + 1)]
