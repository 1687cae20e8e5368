"""A broker that closes the link over one message must not stop all others. Pure.

MQTT 3.1.1 has no way to refuse one PUBLISH: a broker that does not like a topic or a size closes
the connection, and would do so again after every reconnect. The rules:

- FRUITLESS connections in a row that the broker closed with messages in flight and not one
  acknowledgement: from now on one message at a time;
- one that was alone in flight when the broker closed, MAX_TRIES times, is to blame: set aside;
- CALM acknowledgements at one at a time, or a message set aside: full speed again.

Only a close by the broker counts, so a bad link blames nobody.
"""

from __future__ import annotations

from gateway.batch import Entry
from gateway.flight import MAX_TRIES

FRUITLESS = 3
CALM = 200


class Caution:
    """Watches how connections end."""

    def __init__(self) -> None:
        self.on = False
        self._fruitless = 0
        self._acks = 0

    def connected(self) -> bool:
        """A connection stands; tells whether to send one message at a time."""
        self._acks = 0
        self.on = self.on or self._fruitless >= FRUITLESS
        return self.on

    def acknowledged(self, count: int) -> bool:
        """Acknowledgements came; tells whether to go back to full speed."""
        self._acks += count
        self._fruitless = 0
        if not self.on or self._acks < CALM:
            return False
        self.on = False
        return True

    def lost(self, by_broker: bool, unanswered: list[Entry]) -> Entry | None:
        """The connection is gone; returns the entry to set aside, if one is to blame."""
        if not by_broker or not unanswered:
            return None
        if not self.on:
            self._fruitless += self._acks == 0
            return None
        if len(unanswered) > 1:
            return None
        entry = unanswered[0]
        entry.tries += 1
        if entry.tries < MAX_TRIES:
            return None
        self.on, self._fruitless = False, 0
        return entry
