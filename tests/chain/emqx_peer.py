"""A client of bare bytes for both versions of MQTT, for the tests of the stand-in for EMQX."""

from __future__ import annotations

import socket
import struct
from typing import Any

from tools.ports import HOST
from tools.raw_client import RawClient, packet, text

PUBACK, PUBREC, PUBREL, PUBCOMP, DISCONNECT = 0x40, 0x50, 0x62, 0x70, 0xE0


class Peer(RawClient):
    """One connection at MQTT 3.1.1 (v 4) or 5."""

    def __init__(self, port: int, v: int, *, source: str = HOST) -> None:
        self.v = v
        self.sock = socket.create_connection((HOST, port), 10.0, (source, 0))
        self._rest = b""

    def hello(self, client_id: str, *, clean: bool = False, expiry_s: int = 600,
              keepalive_s: int = 60, receive_maximum: int = 0,
              will: tuple[str, bytes] | None = None) -> bytes:
        """CONNECT; return the CONNACK's body."""
        said = struct.pack(">BI", 0x11, expiry_s)
        if receive_maximum:
            said += struct.pack(">BH", 0x21, receive_maximum)
        props = bytes([len(said)]) + said if self.v == 5 else b""
        tail = text(client_id)
        if will is not None:
            tail += (b"\0" if self.v == 5 else b"") + text(will[0]) + text(will[1])
        self.send(packet(0x10, text("MQTT") + struct.pack(
            ">BBH", self.v, clean << 1 | (will is not None) << 2, keepalive_s) + props + tail))
        answer = self.read()
        assert answer is not None, "no CONNACK"
        assert answer[0] == 0x20
        return answer[1]

    def publish(self, topic: str, payload: bytes, qos: int = 2, mid: int = 1, *,
                dup: bool = False) -> None:
        """Send a PUBLISH."""
        self.send(self.pack(topic, payload, qos, mid, dup=dup))

    def pack(self, topic: str, payload: bytes, qos: int = 2, mid: int = 1, *,
             dup: bool = False) -> bytes:
        """Return a PUBLISH."""
        return packet(0x30 | dup << 3 | qos << 1,
                      text(topic) + (struct.pack(">H", mid) if qos else b"")
                      + (b"\0" if self.v == 5 else b"") + payload)

    def release(self, mid: int) -> tuple[int, int]:
        """Send a PUBREL; return the answer."""
        self.send(packet(PUBREL, struct.pack(">H", mid)))
        return self.answer(mid)

    def answer(self, mid: int, timeout_s: float = 10.0) -> tuple[int, int]:
        """Return first byte and reason of the acknowledgement that comes next."""
        found = self.read(timeout_s)
        assert found is not None, "closed"
        head, body = found
        assert struct.unpack(">H", body[:2])[0] == mid
        return head, body[2] if len(body) > 2 else 0

    def subscribe(self, topic_filter: str, qos: int = 2) -> int:
        """SUBSCRIBE; return the code of the SUBACK."""
        props = b"\0" if self.v == 5 else b""
        self.send(packet(0x82, b"\0\1" + props + text(topic_filter) + bytes([qos])))
        found = self.read()
        assert found is not None
        assert found[0] == 0x90
        return found[1][-1]

    def message(self, timeout_s: float = 10.0) -> tuple[int, int, bytes]:
        """Return first byte, packet identifier (0 at QoS 0) and payload of the PUBLISH that comes
        next."""
        found = self.read(timeout_s)
        assert found is not None, "closed"
        return self._publish_of(*found)

    def _publish_of(self, head: int, body: bytes) -> tuple[int, int, bytes]:
        assert head >> 4 == 3, (head, body)
        at = 2 + struct.unpack(">H", body[:2])[0]
        mid = 0
        if head & 6:
            mid, at = struct.unpack(">H", body[at : at + 2])[0], at + 2
        return head, mid, body[at + (self.v == 5):]

    def receive(self, count: int = 1, timeout_s: float = 10.0) -> list[bytes]:
        """Take so many QoS 2 messages to their ends; return their payloads in order."""
        payloads, ended = [], 0
        while ended < count:
            found = self.read(timeout_s)
            assert found is not None, "closed"
            head, body = found
            if head == PUBREL:
                self.send(packet(PUBCOMP, body[:2]))
                ended += 1
                continue
            _, mid, payload = self._publish_of(head, body)
            payloads.append(payload)
            self.send(packet(PUBREC, struct.pack(">H", mid)))
        return payloads

    def ping(self, timeout_s: float = 10.0) -> None:
        """PINGREQ, and wait for the answer."""
        self.send(b"\xc0\x00")
        assert self.read(timeout_s) == (0xD0, b"")

    def quit(self) -> None:
        """DISCONNECT and close."""
        self.send(b"\xe0\x00")
        self.close()

    def ended_with(self) -> int | None:
        """Wait for the end; return the reason of a DISCONNECT before it, if there was one."""
        reason = None
        while (found := self.read()) is not None:
            if found[0] == DISCONNECT:
                reason = found[1][0]
        return reason


def properties(connack: bytes) -> dict[int, int]:
    """The properties of EMQX's CONNACK, all numbers."""
    sizes = {0x21: 2, 0x22: 2, 0x25: 1, 0x27: 4, 0x28: 1, 0x29: 1, 0x2A: 1}
    found: dict[int, int] = {}
    at = 3
    while at < len(connack):
        size = sizes[connack[at]]
        found[connack[at]] = int.from_bytes(connack[at + 1 : at + 1 + size], "big")
        at += 1 + size
    return found


def counts(stats: dict[str, Any], name: str) -> int:
    """One of the stand-in's counts."""
    value = stats["counts"].get(name, 0)
    assert isinstance(value, int)
    return value
