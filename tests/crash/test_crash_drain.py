"""A disk that the outbox itself has filled drains by itself, and new messages are taken again."""

from __future__ import annotations

import pytest

from tools.crash_drain import Case, run
from tools.small_disk import DiskError

SEEDS = 20


def drains(case: Case) -> None:
    try:
        found = run(case)
    except DiskError as error:
        pytest.skip(f"no small disk of our own here, that needs root: {error}")
    assert found["passed"], f"{case}: {found}"


@pytest.mark.timeout(120)
def test_full_disk_drains_after_a_kill_with_what_is_left_of_it_taken() -> None:
    drains(Case(1, "tmpfs", 8, qos=1, upgrade=2, payload=20_000, kills=("full",), eaten=True))


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("size_mb", [8, 12, 32, 64])
@pytest.mark.parametrize("disk", ["ext4", "tmpfs", "f2fs"])
@pytest.mark.parametrize("seed", range(1, SEEDS + 1))
def test_full_disk_drains(seed: int, disk: str, size_mb: int) -> None:
    drains(Case.drawn(seed, disk, size_mb))
