"""One device's connection, as MQTT sees it: order of packets, keepalive, time to CONNECT. No I/O.

  new ──CONNECT──▶ open ──DISCONNECT──▶ left         anything else that ends it: broken

`feed` takes bytes and returns the packets that mean something to the rest of the gateway; what can
be answered at once is in `out`. Every violation raises ProtocolError (OASIS 3.1.1 section 4.8).
"""

from __future__ import annotations

from gateway import wire
from gateway.errors import ProtocolError

NEW, OPEN, LEFT = range(3)


class Inbound:
    """State of one connection. Times are monotonic seconds, passed in."""

    def __init__(self, now_s: float, connect_timeout_s: float, max_packet_bytes: int) -> None:
        self.state = NEW
        self.out = bytearray()
        self.keepalive_s = 0
        self._rest = b""
        self._max_packet_bytes = max_packet_bytes
        self._deadline_s = now_s + connect_timeout_s

    def feed(self, data: bytes, now_s: float) -> list[wire.Packet]:
        """Whole packets in data, with what was left of the last call before it."""
        if self.state == LEFT:
            return []
        if self.state == OPEN:
            self.patience(now_s)  # every byte counts: a packet may take longer than a keepalive
        if self._rest:
            data = self._rest + data
        packets, used = wire.decode(data, self._max_packet_bytes)
        self._rest = data[used:] if used < len(data) else b""
        if not packets:
            return packets
        was_open = self.state == OPEN
        if was_open:
            for packet in packets:
                if type(packet) is not wire.Publish:
                    break
            else:  # the fast path: nothing but publishes
                return packets
        else:
            self._opened(packets[0], now_s)
        kept: list[wire.Packet] = []
        for index, packet in enumerate(packets):
            if isinstance(packet, wire.Simple):
                if packet.kind == wire.DISCONNECT:
                    self.state = LEFT  # MQTT-3.14.4-2: nothing behind it counts
                    return kept
                self.out += wire.PINGRESP_BYTES
            elif isinstance(packet, wire.Connect) and (index or was_open):
                raise ProtocolError("second CONNECT")  # MQTT-3.1.0-2
            else:
                kept.append(packet)
        return kept

    def _opened(self, first: wire.Packet, now_s: float) -> None:
        if not isinstance(first, wire.Connect):
            raise ProtocolError("no CONNECT")  # MQTT-3.1.0-1
        self.state = OPEN
        self.keepalive_s = first.keepalive_s
        self._deadline_s = now_s + 1.5 * first.keepalive_s if first.keepalive_s else float("inf")

    def overdue(self, now_s: float) -> str | None:
        """Why the connection should be closed by now; None while all is well."""
        if now_s < self._deadline_s:
            return None
        return "no CONNECT in time" if self.state == NEW else "keepalive"

    def patience(self, now_s: float) -> None:
        """The device is there, or its silence is our doing (MQTT-3.1.2-24 begins anew). What is no
        CONNECT yet has the time for one, and no more."""
        if self.keepalive_s:
            self._deadline_s = now_s + 1.5 * self.keepalive_s

    def silent(self, now_s: float) -> bool:
        """Whether half of its keepalive has passed in silence: time to ask the kernel."""
        return bool(self.keepalive_s) and self._deadline_s - now_s < 0.75 * self.keepalive_s
