"""A long outage in little memory: a sample of `python -m tools.backlog`."""

from __future__ import annotations

import uvloop

from tools.backlog import measure


def test_backlog_takes_disk_not_memory_and_drains_in_order() -> None:
    outage = uvloop.run(measure(60_000, payload_bytes=200))
    assert (outage.delivered, outage.duplicated, outage.reordered) == (60_000, 0, 0)
    assert outage.disk_mb > 12  # it is there
    assert outage.memory_peak_mb - outage.memory_before_mb < 20
