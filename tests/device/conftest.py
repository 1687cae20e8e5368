"""The device's pure files on CPython, and how to run the others on the real MicroPython."""

from __future__ import annotations

import importlib
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from real_port import HERE, ROOT, MicroPython

from tools import interpreter

_micropython = ModuleType("micropython")
_micropython.const = lambda value: value  # type: ignore[attr-defined]
sys.modules.setdefault("micropython", _micropython)
sys.path.insert(0, str(ROOT / "device"))


@pytest.fixture
def rare(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Give node.rare, whose `board` a test replaces, whichever test had it imported before."""
    monkeypatch.setitem(sys.modules, "machine", ModuleType("machine"))
    return importlib.import_module("node.rare")


@pytest.fixture(scope="session")
def open_folder() -> Iterator[Path]:
    """A folder that an unprivileged user can read."""
    with tempfile.TemporaryDirectory(prefix="tidegate-device-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.fixture(scope="session")
def micropython() -> MicroPython:
    """The interpreter with the firmware, umqtt and the test's own helpers on its path."""
    umqtt = interpreter.umqtt_simple()
    return MicroPython([HERE / "mp", ROOT / "device", umqtt], "8m")
