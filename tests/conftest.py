"""Settings for all tests, and their order: what is fast comes first, the whole chain last."""

from __future__ import annotations

import gc
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
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
SLOW = {  # folder: how to have its slow tests run, which otherwise are not; hil has its own rule
    "board": "takes long or fetches mpflash: pytest -m slow tests/board",
    "gateway": "takes long: make service-test, make broker-test or make model",
    "crash": "takes long: make crash, or pytest -m slow",
}


def _open_files() -> Counter[str]:
    gc.collect()
    names: list[str] = []
    for entry in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # the one that lists them
            names.append(str(entry.readlink()))
    return Counter(name for name in names if name.startswith("/")
                   and not name.endswith("(deleted)"))


@pytest.fixture(scope="session", autouse=True)
def _nothing_left_open() -> Iterator[None]:
    """The files that the tests of a process opened are closed at its end; a path names a test."""
    before = _open_files()
    yield
    left = _open_files() - before
    assert not left, f"left open: {sorted(left)}"


def pytest_configure() -> None:
    """Let Ctrl-C end what tests start, also where a shell began them in the background."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _folder(item: pytest.Item) -> str:
    return item.path.relative_to(HERE).parts[0]


def _rank(item: pytest.Item) -> int:
    folder = _folder(item)
    return ORDER.index(folder) if folder in ORDER else len(ORDER)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Sort by folder, the order within one stays; skip what is slow unless it is asked for."""
    items.sort(key=_rank)
    if "slow" in config.getoption("markexpr"):
        return
    for item in items:
        if _folder(item) in SLOW and item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason=SLOW[_folder(item)]))
