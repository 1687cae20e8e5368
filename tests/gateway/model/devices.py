"""Devices: each knows what it sent, sends it again until it is acknowledged, and keeps a ledger.

A payload is `name:number:attempt`, so that what a device sent again at QoS 1, or in a new session,
can be told from what the gateway sent twice.
"""

from __future__ import annotations

import json
import random

from gateway import wire
from gateway.errors import ProtocolError
from gateway.local import Session
from gateway.wire import Ack, Connect, Packet, Publish, Raw
from model.rules import Options, hold


class Device:
    """unacked: by packet identifier, with its number. acked: what the gateway answers for."""

    def __init__(self, index: int, options: Options) -> None:
        self.index, self.name = index, "abc"[index]
        self.unacked: dict[int, Publish] = {}
        self.acked: list[Publish] = []
        self.peer: Peer | None = None
        self._options = options
        self._number = self._mid = 0
        self._releasing: set[int] = set()  # PUBREC came, PUBCOMP has not
        self._to_release: list[int] = []

    def kinds(self) -> list[str]:
        """First levels of topics, see house.py, by how often they are used."""
        kinds = ["q1", "q1", "q1", "q2", "q0", "q0", "l0", "l0", "u1", "u2"]
        kinds += ["l0", "q0"] * 5 * self._options.narrow
        return kinds + ["l1", "l1", "l2", "d1", "k1"] * self._options.policies

    def message(self, rng: random.Random) -> Publish:
        """Something new."""
        kind = rng.choice(self.kinds())
        qos = rng.choice([0, 0, 1]) if kind == "q0" else rng.choice([0, 1, 1, 1, 2])
        self._number += 1
        topic = f"{kind}/{self.name}" + (str(rng.randint(0, 1)) if kind[0] == "l" else "")
        payload = b"%s:%d:0" % (self.name.encode(), self._number)
        if self._options.big and rng.random() < 0.03:
            payload += b":" + b"x" * 250
        if not qos:
            return Publish(topic, payload, 0, False, False, 0)
        self._mid += 1
        publish = self.unacked[self._mid] = Publish(topic, payload, qos, False, False, self._mid)
        return publish

    def again(self, session_present: bool) -> list[Packet]:
        """What to send on a new connection: the rest (section 4.4), or all anew, under
        identifiers that were used before (section 3.2.2.2)."""
        self._to_release.clear()
        old, self.unacked = self.unacked, {}
        if not session_present:
            self._releasing.clear()
            self._mid = 0
        packets: list[Packet] = [Ack(wire.PUBREL, mid) for mid in sorted(self._releasing)]
        for mid, p in old.items():
            payload = p.payload
            if p.qos == 1 or not session_present:
                name, number, attempt, *rest = payload.split(b":")
                payload = b":".join([name, number, b"%d" % (int(attempt) + 1), *rest])
            if not session_present:
                self._mid = mid = self._mid + 1
            self.unacked[mid] = Publish(p.topic, payload, p.qos, False, session_present, mid)
            packets.append(self.unacked[mid])
        return packets

    def releases(self) -> list[Packet]:
        """PUBRELs that are due."""
        packets: list[Packet] = [Ack(wire.PUBREL, mid) for mid in self._to_release]
        self._to_release.clear()
        return packets

    def take(self, ack: Ack) -> None:
        """One acknowledgement of the gateway."""
        if ack.kind == wire.PUBCOMP:
            self._releasing.discard(ack.mid)
            return
        publish = self.unacked.pop(ack.mid, None)
        if publish is not None:
            hold((ack.kind == wire.PUBREC) == (publish.qos == 2), f"wrong answer to {publish}")
            self.acked.append(publish)
        if ack.kind == wire.PUBREC:
            self._releasing.add(ack.mid)
            self._to_release.append(ack.mid)


def connect(name: str) -> Connect:
    """CONNECT of a device, for a session that stays."""
    return Connect(name, False, 60, None, None, None, 4)


class Peer:
    """A device's connection, as clients.py sees it."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self.session: Session | None = None
        self.will: Publish | None = None
        self.peer = device.name
        self.held: list[Publish] = []
        self.unacked_bytes = 0
        self.acked_s = 0.0
        self.limited = self.paused = self.gone = self.session_present = False

    def write(self, data: bytes) -> None:
        if self.gone:
            return
        packets, _ = wire.decode(data, client=True)
        for packet in packets:
            if isinstance(packet, Ack):
                self.device.take(packet)
            elif isinstance(packet, Raw) and packet.kind == wire.CONNACK:
                self.session_present = bool(packet.data[2])

    def hold(self, wait: bool) -> None:
        self.paused = wait

    def go_on(self, now_s: float) -> None:
        if not self.held:
            self.paused = False

    def over_rate(self, messages: int, now_s: float) -> bool:
        return False

    def fail(self, error: ProtocolError) -> None:
        raise error


class Records:
    """A device that speaks the contract: it sends from the first record that the gateway has not
    said it has."""

    def __init__(self) -> None:
        self.have = self._last = 0

    def batch(self, rng: random.Random) -> Publish | None:
        """What it sends now, some of it perhaps again."""
        self._last += rng.randint(0, 2)
        low = self.have + 1
        if low > self._last:
            return None
        records = [[n, "s", {"n": n}] for n in range(low, self._last + 1)]
        body = {"v": 1, "life": "l", "boot": 1, "seq": low, "low": low, "now": 1, "recs": records}
        return Publish("tidegate/a/up", json.dumps(body).encode(), 0, False, False, 0)

    def said(self, message: Publish) -> None:
        """The gateway says how far it has them."""
        if message.topic.endswith("down/ack"):
            self.have = max(self.have, json.loads(message.payload)["seq"])
