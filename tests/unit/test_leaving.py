"""gateway/leaving.py where the disk does not play along; its policies are tested through the
gateway in tests/gateway/test_outbox_full.py."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any

import pytest

from gateway.commit import Committer
from gateway.errors import OutboxError
from gateway.flight import Flight
from gateway.leaving import Leaving
from gateway.outbox import Outbox
from gateway.pacer import Pacer
from gateway.queue import Queue
from gateway.routes import Route


def test_room_on_a_disk_that_refuses_is_asked_for_again_and_breaks_nothing(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    asked, broken, promised = [], [], []

    def oldest(_outbox: Outbox, *request: Any) -> None:
        asked.append(request)
        raise OutboxError("database or disk is full")

    async def overflow() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _loop, context: broken.append(context))
        outbox = Outbox(tmp_path / "o.db")
        flight, committer = Flight(), Committer(outbox, Pacer(0, 1))
        queue = Queue(outbox.start(), 1000, flight.mids)
        leaving = Leaving(flight, queue, committer, outbox, [])
        monkeypatch.setattr(committer, "after", promised.append)
        queue.used_bytes, queue.unloaded = 2000, 1  # all of it only on disk
        for count in (1, 2):
            leaving.make_room(Route(full="drop-oldest"))
            async with asyncio.timeout(10):
                while caplog.text.count("cannot make room") < count:
                    await asyncio.sleep(0)
        committer.close()

    monkeypatch.setattr(Outbox, "oldest", oldest)
    with caplog.at_level(logging.WARNING):
        asyncio.run(overflow())
    assert len(asked) == 2
    assert not broken
    assert not promised  # no room: who waits for it must not be woken, to ask again at once
