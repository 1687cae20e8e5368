"""The full scenarios run only on a bench that was named: `make hil HIL=hil.toml`."""

from __future__ import annotations

from pathlib import Path

import pytest

HERE = Path(__file__).parent


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect this folder's slow tests where no --hil was given."""
    if config.getoption("--hil"):
        return
    slow = [item for item in items
            if item.path.is_relative_to(HERE) and item.get_closest_marker("slow")]
    if slow:
        items[:] = [item for item in items if item not in slow]
        config.hook.pytest_deselected(items=slow)
