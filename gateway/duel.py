"""Does somebody else use our client identifier? Pure.

A broker closes the connection of a client when another one connects with its identifier (3.1.1
section 3.1.4), and that one, closed in turn, comes back and closes ours. MQTT 5 says so:
DISCONNECT 0x8E. 3.1.1 does not: there a link that the other end closes FALLS times in a row, each
time within SOON_S of its CONNACK, is probably that. What falls for a message that the broker
dislikes is found out sooner (caution.py).
"""

from __future__ import annotations

SOON_S = 15.0
FALLS = 7
OVER_S = 60.0  # a link that stood so long has nobody against it
TAKEN_OVER = 0x8E  # MQTT 5.0 section 3.14.2.1


class Duel:
    """What one link went through. Times are monotonic seconds.

    told: what it probably is, in words; empty while all is well.
    """

    def __init__(self, client_id: str) -> None:
        self.told = ""
        self._client_id = client_id
        self._opened_s = 0.0
        self._falls = 0

    def opened(self, now_s: float) -> None:
        """The link is up."""
        self._opened_s = now_s

    def fell(self, code: int, now_s: float, *, by_broker: bool) -> str:
        """The link is gone. code: of the broker's DISCONNECT, 0 for none. Returns what to log,
        "" for nothing new."""
        self.stands(now_s)
        before, sure = self.told, code == TAKEN_OVER
        if not sure and (code or not by_broker or now_s - self._opened_s > SOON_S):
            self._falls = 0  # it says that it has another trouble, or nobody closed it
            return ""
        self._falls += 1
        if sure or self._falls >= FALLS:
            self.told = (f"another client {'uses' if sure else 'probably uses'} the client "
                         f"identifier {self._client_id}: another gateway with this id, or one "
                         "with a copy of this outbox; messages are lost until one of them stops "
                         "or gets another id")
        return self.told if self.told != before else ""

    def stands(self, now_s: float) -> None:
        """The link is up still; to be asked from time to time."""
        if now_s - self._opened_s >= OVER_S:
            self.told, self._falls = "", 0
