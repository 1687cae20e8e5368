"""Settings for all tests, and their order: what is fast comes first, the whole chain last."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# A busy machine is slow, not wrong.
settings.register_profile(
    "tidegate", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("tidegate")

ORDER = ("unit", "device", "gateway", "board", "hil", "chain", "crash")
HERE = Path(__file__).parent


def _rank(item: pytest.Item) -> int:
    folder = item.path.relative_to(HERE).parts[0]
    return ORDER.index(folder) if folder in ORDER else len(ORDER)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort by folder; within a folder the order stays."""
    items.sort(key=_rank)
