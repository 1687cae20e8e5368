"""Wills: on disk while their client is there, published when it ends without a goodbye."""

from __future__ import annotations

import logging
from collections.abc import Callable

from gateway.commit import Committer
from gateway.local import Locals, Session
from gateway.wire import Publish

log = logging.getLogger("tidegate.wills")


class Wills:
    """The wills of all clients.

    old: from before a restart, by client identifier. flush: writes what a session has to send.
    intake: takes (client identifier, will) for the upstream; False where there is no room.
    """

    def __init__(self, old: dict[str, Publish], locals_: Locals, committer: Committer,
                 flush: Callable[[Session], None]) -> None:
        self.intake: Callable[[str, Publish], bool] = lambda _client, _will: True
        self._old = old  # of clients that were there when the gateway went down
        self._late: dict[str, Publish] = {}  # the house has heard them, upstream has no room
        self._locals, self._committer, self._flush = locals_, committer, flush

    def connected(self, client_id: str, will: Publish | None) -> None:
        """A client is there, perhaps again: what it left unsaid is not said any more (it says
        itself how it is, and MQTT-3.1.2-8 allows the delay)."""
        old, late = self._old.pop(client_id, None), self._late.pop(client_id, None)
        if old is not None or late is not None or will is not None:
            self._note(client_id, will)

    def closed(self, client_id: str, will: Publish | None, clean: bool) -> None:
        """A client is gone; `clean` where it said goodbye."""
        if will is not None and clean:
            self._note(client_id, None)
        elif will is not None:
            self._fire(client_id, will)

    def fire_old(self) -> None:
        """Publish the wills of those who have not come back within the grace time."""
        old, self._old = self._old, {}
        for client_id, will in old.items():
            self._fire(client_id, will)

    def room(self) -> None:
        """The outbox may have room again, for those that came when it had none."""
        for client_id, will in list(self._late.items()):
            newest = self._locals.retained.get(will.topic)
            stale = will.retain and (newest.payload if newest else b"") != will.payload
            if stale or self.intake(client_id, will):
                del self._late[client_id]
                self._note(client_id, None)

    def _fire(self, client_id: str, will: Publish) -> None:
        """Publish a will. The house hears it now. Where the outbox has no room it stays on disk as
        a will: one a client, so the cap holds however often a client comes and goes."""
        if will.retain:
            self._locals.retain(will)
            self._committer.batch.retained[will.topic] = will if will.payload else None
        touched: set[Session] = set()
        self._locals.publish(will, touched)
        for session in touched:
            self._flush(session)
        if self.intake(client_id, will):
            self._note(client_id, None)
            return
        self._late[client_id] = will
        self._committer.wake()  # for what is retained
        log.warning("will waits for room in the outbox client=%s topic=%s", client_id, will.topic)

    def _note(self, client_id: str, will: Publish | None) -> None:
        self._committer.batch.wills[client_id] = will
        self._committer.wake()
