"""The gateway against a disk, a broker and devices that fail as a seed has it; see model/.

`make model` runs many more seeds, `make model SEED=5 N=1 ARGS='-k trouble'` one again.
"""

from __future__ import annotations

import logging
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from model.rules import Options
from model.run import run
from model.world import POLICIES

SETS = [
    Options("calm", policies=True),
    Options("trouble", full=True, big=True, refuse=True, policies=True),
    Options("crashes", crash=True, full=True, contract=True),
    Options("everything", crash=True, full=True, big=True, refuse=True, policies=True,
            forget=True, reload=True, contract=True),
    Options("narrow", narrow=True),
    Options("sudden", crash=True, crash_share=0.04),
    Options("lowered", crash=True, full=True, max_qos=1),
    Options("emqx", crash=True, says=True, passing=True, refuse=True),
    Options("late", crash=True, full=True, forget=True, late=True),
]
SEEDS = range(1, 25)
OFTEN = 5  # times at least that a set reaches what it is there for
MEMORY = Path("/dev/shm")

every_set = pytest.mark.parametrize("options", SETS, ids=lambda options: options.name)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """In memory where there is such a place: nothing here is about power cuts."""
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else tmp_path) as made:
        yield Path(made)


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    """The trace of a run says more than the gateway's log."""
    caplog.set_level(logging.CRITICAL + 1, "tidegate")


def expected(options: Options) -> list[str]:
    """What a set has to reach to be worth its time."""
    names = ["early sends", "late sends", "superseded"]
    names += ["PUBRELs after a reconnect"] * (options.max_qos == 2)
    names += ["crashes", "lost behind a CONNECT"] * options.crash
    names += ["failed commits", "full disks drained", "past the journal"] * options.full
    names += ["passing refusals"] * options.passing + ["0x91"] * options.says
    names += ["after a lost session"] * options.forget
    names += ["set aside"] * (options.big or options.refuse)
    names += [*POLICIES, "reject"] * options.policies
    return names


@every_set
def test_what_is_promised_holds_and_what_is_hard_is_reached(options: Options,
                                                            folder: Path) -> None:
    reached: Counter[str] = Counter()
    for seed in SEEDS:
        reached += run(seed, options, folder / str(seed)).reached
    rare = {name: reached[name] for name in expected(options) if reached[name] < OFTEN}
    assert not rare, f"hardly reached by {options.name!r}: {rare} of {reached}"


def test_a_seed_does_the_same_again(folder: Path) -> None:
    for options in SETS[1:5]:
        first, again = (run(1, options, folder / f"{options.name}-{turn}") for turn in (1, 2))
        assert first.trace == again.trace


@pytest.mark.slow
@pytest.mark.timeout(0)
@every_set
def test_more_seeds(options: Options, folder: Path) -> None:
    first = int(os.environ.get("MODEL_SEED") or 1)
    for seed in range(first, first + int(os.environ.get("MODEL_COUNT") or 500)):
        run(seed, options, folder / str(seed))
