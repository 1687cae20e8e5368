"""How long to wait between two tries to reach a broker. Pure."""

from __future__ import annotations

BACKOFF_FIRST_S, BACKOFF_MOST_S = 0.5, 30.0


def longest_wait_s(tried: int, away_s: float) -> float:
    """Return the longest wait after so many tries in vain [s], the upstream away for `away_s`.

    Never much longer than it was away: small draws in a row must not make 3 s cost 30.
    """
    most_s: float = BACKOFF_FIRST_S * 2 ** min(tried, 8)
    return min(BACKOFF_MOST_S, most_s, 2 * BACKOFF_FIRST_S + away_s)
