"""The upstream sent PUBREC for a message, and then it forgot the session.

By the text (section 4.3.3) the message is the upstream's, and nothing is owed but the PUBREL,
which only that session wants. Brokers that deliver at PUBREL (Mosquitto, aedes, amqtt) never had
it then; those that deliver at PUBLISH (EMQX) had. So it is sent anew, and may come twice, or let
go, and may be lost: `after_lost_session` says which. Every case is counted.

A gateway that is killed between such a CONNACK and the note on disk finds the new session present,
and cannot know. That is the one case which is not counted.

Sent anew, a message has a new key: `released` is noted on disk by key, and a crash must not bring
that back for what is published again. Nothing is sent before that is on disk.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable

from msgspec.structs import replace

from gateway.batch import Batch, Entry
from gateway.commit import RETRY_S, Committer
from gateway.errors import OutboxError
from gateway.flight import Flight
from gateway.leaving import Leaving
from gateway.outbox import Outbox
from gateway.queue import Queue

log = logging.getLogger("tidegate.session")


class LostSession:
    """counts: messages by what became of them. resend: false lets them go."""

    def __init__(self, flight: Flight, queue: Queue, committer: Committer, outbox: Outbox,
                 leaving: Leaving, *, resend: bool) -> None:
        self.counts: Counter[str] = Counter()
        self._flight, self._queue, self._leaving = flight, queue, leaving
        self._committer, self._outbox = committer, outbox
        self._resend = resend
        self._task: asyncio.Task[None] | None = None
        self._forgot = False  # the upstream knows nothing of what was sent

    @property
    def busy(self) -> bool:
        """Whether a connection waits for the disk."""
        return self._task is not None

    def begin(self, session_present: bool, then: Callable[[bool], None]) -> None:
        """A CONNACK came; call `then` with whether the session is the one that messages in flight
        were sent in, perhaps later, when it is on disk what is not in it."""
        self._forgot = self._forgot or not session_present
        orphans = self._flight.orphans() if self._forgot else []
        if self._task is not None:
            self._then = then
        elif orphans and self._resend:
            self._then = then
            self._task = asyncio.get_running_loop().create_task(self._renew(orphans))
        else:
            for entry in orphans:
                self._flight.remove(entry)
            if orphans:
                self._tell("dropped", len(orphans))
                self._leaving.forget(orphans)
            self._go(then)

    def _go(self, then: Callable[[bool], None]) -> None:
        present, self._forgot = not self._forgot, False
        then(present)

    def _tell(self, what: str, count: int) -> None:
        log.warning("the upstream forgot the session after PUBREC, %s messages=%d", what, count)
        self.counts[what] += count

    async def _renew(self, orphans: list[Entry]) -> None:
        keys = [self._queue.new_key(entry.lane) for entry in orphans]
        moved = [(e.key, key, e.mid) for e, key in zip(orphans, keys, strict=True)]
        while True:
            try:
                await self._committer.read(lambda: self._outbox.apply(Batch(moved=moved)))
                break
            except OutboxError as error:
                log.error("cannot note what is sent anew, sending nothing reason=%r", str(error))
                await asyncio.sleep(RETRY_S)
        for entry, key in zip(orphans, keys, strict=True):
            # Another object: `released` of the old one may be on its way to the disk.
            self._flight.in_flight[entry.mid] = replace(
                entry, key=key, released=False, taken=False, sent=False, dup=False)
            self._queue.renamed(entry)
        self._tell("resent", len(orphans))
        self._task = None
        self._go(self._then)
