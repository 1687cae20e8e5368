"""Where an outbox of a test is."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.journal import Journal


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give an outbox's path; the journals that a test leaves as a crash would are closed."""
    made: list[Journal] = []
    begin = Journal.__init__

    def noted(self: Journal, *how: Any) -> None:
        made.append(self)
        begin(self, *how)

    monkeypatch.setattr(Journal, "__init__", noted)
    yield tmp_path / "deep" / "outbox.db"
    for journal in made:
        journal.close()
