"""Packet identifiers under which the upstream holds what we know nothing of. No I/O.

PUBREC 0x91 for a PUBLISH that was never sent before says so: of an older version of us, of another
client under our name, of an outbox that is gone. Each is released, in this session until its
PUBCOMP comes; it is free when that has come and no message is under it on disk any more.
"""

from __future__ import annotations

from gateway.mids import Mids
from gateway.wire import PUBREL, encode_ack


class Strangers:
    """owed: PUBRELs to send on this connection."""

    def __init__(self, mids: Mids) -> None:
        self.owed: list[bytes] = []
        self._mids = mids
        self._held: dict[int, bool] = {}  # identifier → whether the disk has nothing under it

    def found(self, mid: int) -> bytes:
        """Return the PUBREL for one."""
        self._held[mid] = False
        return encode_ack(PUBREL, mid)

    def start(self, session_present: bool) -> None:
        """A connection stands: what is owed on it. Without the session nothing is held."""
        self.owed.clear()
        for mid in list(self._held):
            if session_present:
                self.owed.append(encode_ack(PUBREL, mid))
            else:
                self.completed(mid)

    def completed(self, mid: int) -> None:
        """The upstream holds nothing under it."""
        if self._held.pop(mid, False):
            self._mids.free_mids([mid])

    def forget(self, mid: int) -> None:
        """Our message goes under it all the same, behind the PUBREL."""
        self._held.pop(mid, None)

    def renamed(self, mid: int) -> None:
        """On disk nothing is under it."""
        if mid in self._held:
            self._held[mid] = True
        else:
            self._mids.free_mids([mid])
