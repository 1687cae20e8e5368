"""Virtual boards for tests: each with a flash of its own, none left running."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tools.virtual import VirtualBoard

Make = Callable[..., VirtualBoard]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Give a function that starts a board; its flash is `name`.img."""
    with ExitStack() as stack:

        def start(
            main: str = "",
            *,
            name: str = "board",
            files: dict[str, bytes] | None = None,
            **kw: Any,
        ) -> VirtualBoard:
            contents = {**(files or {}), **({"main.py": main.encode()} if main else {})}
            board = VirtualBoard(image=tmp_path / f"{name}.img", files=contents, **kw)
            stack.callback(board.stop)
            return board.start()

        yield start
