"""The clients' side of the house: sessions, subscriptions, wills, and the acknowledgements.

Publishes go on to the intake (bridge.py); what it stored is acknowledged here, after the commit.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections import deque
from collections.abc import Callable
from typing import Protocol

from gateway import wire
from gateway.commit import Callback, Committer
from gateway.errors import ProtocolError
from gateway.local import Locals, Session
from gateway.wills import Wills

log = logging.getLogger("tidegate.clients")

# A client that sends this soon after our acknowledgement was waiting for it.
WAITING_S = 0.05

class Peer(Protocol):
    """Whoever publishes to us: a connection of the listener, or a broker that we subscribe to."""

    session: Session | None
    will: wire.Publish | None
    peer: str
    held: list[wire.Publish]
    unacked_bytes: int
    acked_s: float
    limited: bool  # `over_rate` wants to be asked
    paused: bool  # by `hold`
    congested: bool  # it has much to write; `writable` tells when no more

    def write(self, data: bytes) -> None: ...
    def hold(self, wait: bool) -> None: ...
    def go_on(self, now_s: float) -> None: ...
    def over_rate(self, messages: int, now_s: float) -> bool: ...
    def fail(self, error: ProtocolError) -> None: ...


Intake = Callable[[str, list[wire.Publish]], int]


class Clients:
    """Implements listener.House.

    intake: takes (client identifier, publishes), returns how many of them, from the first, it
    took; what it took is in the committer's batch. received: packet identifiers between PUBREC
    and PUBREL of sessions from before a restart.
    """

    def __init__(self, locals_: Locals, committer: Committer, received: dict[str, set[int]],
                 wills: dict[str, wire.Publish]) -> None:
        self.locals = locals_
        self.intake: Intake = lambda _client, publishes: len(publishes)
        self.max_unacked_bytes = 1 << 20
        self._by_id: dict[str, Peer] = {}
        self._joined: list[Peer] = []  # have no connection of the listener, and no name there
        self._committer = committer
        self._forget_all(received)
        self.wills = Wills(wills, locals_, committer, self.flush)
        self._acks: dict[Peer, bytearray] = {}
        self._acks_batch: object = None
        self._pending: deque[dict[Peer, bytearray]] = deque()  # `_acks` of each batch, in order
        self._waiting: dict[Peer, None] = {}  # hold publishes that had no room; first is next

    def __len__(self) -> int:
        return len(self._by_id)

    def connected(self) -> list[str]:
        """Client identifiers of all who are connected."""
        return sorted(self._by_id)

    def connection(self, client_id: str) -> Peer | None:
        """The connection of a client, if it is there."""
        return self._by_id.get(client_id)

    def join(self, peer: Peer) -> None:
        """Take publishes of a peer that is no client of the listener and does not count as one."""
        self._joined.append(peer)

    # --- packets

    def received(self, conn: Peer, packets: list[wire.Packet], now_s: float) -> None:
        session, publishes = conn.session, []
        if len(packets) == 1 and type(packets[0]) is wire.Publish:
            self.take(conn, packets, now_s)  # type: ignore[arg-type]  # what most reads bring
            packets = []
        for packet in packets:
            if type(packet) is wire.Publish:
                publishes.append(packet)
                continue
            if publishes:  # keep the order of what it did
                self.take(conn, publishes, now_s)
                publishes = []
            if isinstance(packet, wire.Ack):
                self._ack(conn, packet)
            elif isinstance(packet, wire.Subscribe):
                self._subscribe(conn, packet)
            elif isinstance(packet, wire.Connect):
                self._connect(conn, packet)
        if publishes:
            self.take(conn, publishes, now_s)
        session = session or conn.session
        if session is not None and session.out:
            self.flush(session)

    def _connect(self, conn: Peer, packet: wire.Connect) -> None:
        client_id = packet.client_id
        if not client_id:
            if not packet.clean:  # MQTT-3.1.3-8
                raise ProtocolError("client identifier", "empty, with clean session 0")
            client_id = f"auto-{uuid.uuid4().hex[:16]}"
        other = self._by_id.get(client_id)
        if other is not None:  # MQTT-3.1.4-2
            other.fail(ProtocolError("taken over", f"{client_id} connected again"))
            self.closed(other, clean=False)
        before = self.locals.sessions.get(client_id)
        session, present = self.locals.open(client_id, packet.clean)
        if before is not None and not present:
            self.forget_received(before)
        self.wills.connected(client_id, packet.will)
        conn.session, conn.will = session, packet.will
        self._by_id[client_id] = conn
        conn.write(wire.encode_connack(present, 0))
        session.out = bytearray()
        session.resume()
        log.info("connected client=%s peer=%s clean=%s", client_id, conn.peer, packet.clean)

    def _subscribe(self, conn: Peer, packet: wire.Subscribe) -> None:
        session = conn.session
        assert session is not None
        assert session.out is not None
        if packet.filters[0][1] < 0:
            for topic_filter, _ in packet.filters:
                self.locals.unsubscribe(session, topic_filter)
            session.out += wire.encode_unsuback(packet.mid)
            return
        granted = [self.locals.subscribe(session, f, qos) for f, qos in packet.filters]
        session.out += wire.encode_suback(packet.mid, granted)
        for (topic_filter, _), qos in zip(packet.filters, granted, strict=True):
            self.locals.send_retained(session, topic_filter, qos)

    def _ack(self, conn: Peer, packet: wire.Ack) -> None:
        session = conn.session
        assert session is not None
        if packet.kind == wire.PUBACK:
            session.acknowledged(packet.mid)
        elif packet.kind == wire.PUBREL:
            self.released(conn, packet)

    def released(self, conn: Peer, packet: wire.Ack) -> None:
        """PUBREL: the identifier may be used again, once that is on disk."""
        session = conn.session
        assert session is not None
        if packet.mid in session.received:
            session.received.discard(packet.mid)
            self._committer.batch.received[session.client_id, packet.mid] = None
        self._later(conn, bytearray(wire.encode_ack(wire.PUBCOMP, packet.mid)), 1)

    def _forget_all(self, received: dict[str, set[int]]) -> None:
        """Free the QoS 2 identifiers of sessions that ended with the process before: every CONNACK
        will say session present 0, and a client then begins anew (section 3.2.2.2), under the same
        identifiers. This is on disk with the first PUBREC at the latest."""
        for client_id, mids in received.items():
            for mid in mids:
                self._committer.batch.received[client_id, mid] = None

    def forget_received(self, session: Session, then: Callback = lambda: None) -> None:
        """Free the QoS 2 identifiers of a session that has ended: what comes under them is new.
        Calls `then` when that is on disk, at once where there were none."""
        if not session.received:
            then()
            return
        for mid in session.received:
            self._committer.batch.received[session.client_id, mid] = None
        session.received.clear()
        self._committer.after(then)

    # --- publishes

    def take(self, conn: Peer, publishes: list[wire.Publish], now_s: float) -> None:
        """Store publishes of one peer in order; acknowledge them after the commit."""
        session = conn.session
        assert session is not None
        if conn.held:
            conn.held += publishes
            return
        if conn.limited and conn.over_rate(len(publishes), now_s):
            conn.hold(True)
        if not conn.unacked_bytes and now_s - conn.acked_s < WAITING_S:
            self._committer.hurry(now_s)
        new = publishes
        for p in publishes:
            if p.qos == 2:
                new = self._unseen(session, publishes)
                break
        took = self.intake(session.client_id, new)
        if took < len(new):
            self._waiting[conn] = None
            conn.hold(True)
            stuck = new[took]  # by identity: an equal one may stand before it
            at = next(i for i, p in enumerate(publishes) if p is stuck)
            publishes, conn.held = publishes[:at], publishes[at:]
        acks, unacked_bytes = bytearray(), 0
        for p in publishes:
            if p.qos == 1:
                acks += wire.encode_ack(wire.PUBACK, p.mid)
            elif p.qos == 2:
                session.received.add(p.mid)
                self._committer.batch.received[session.client_id, p.mid] = True
                acks += wire.encode_ack(wire.PUBREC, p.mid)
            else:
                continue
            # The +1 makes "something unacknowledged" true for empty payloads.
            unacked_bytes += len(p.payload) + 1
        if acks:
            self._later(conn, acks, unacked_bytes)
        if conn.unacked_bytes > self.max_unacked_bytes:
            conn.hold(True)

    def _unseen(self, session: Session, publishes: list[wire.Publish]) -> list[wire.Publish]:
        here: set[int] = set()
        new = []
        for p in publishes:
            if not self._seen(session, p) and (p.qos < 2 or p.mid not in here):
                new.append(p)
            if p.qos == 2:
                here.add(p.mid)
        return new

    @staticmethod
    def _seen(session: Session, publish: wire.Publish) -> bool:
        """Whether a QoS 2 PUBLISH is one we have (method B of section 4.3.3)."""
        return publish.qos == 2 and publish.mid in session.received

    def _later(self, conn: Peer, acks: bytearray, unacked_bytes: int) -> None:
        """Write acknowledgements once what they speak of is on disk."""
        if self._acks_batch is not self._committer.batch:
            self._acks_batch = self._committer.batch
            self._acks = {}
            self._pending.append(self._acks)
            self._committer.after(self._send_acks)
        waiting = self._acks.get(conn)
        if waiting is None:
            self._acks[conn] = acks
        else:
            waiting += acks
        conn.unacked_bytes += unacked_bytes  # reset on the write

    def _send_acks(self) -> None:
        now_s, acks = time.monotonic(), self._pending.popleft()
        current = self._acks if self._acks_batch is self._committer.batch else {}
        for conn, data in acks.items():
            if conn not in current:
                conn.unacked_bytes = 0
            conn.acked_s = now_s
            conn.write(bytes(data))
            if conn.paused:
                conn.go_on(now_s)

    def lost(self, conn: Peer) -> None:
        """The link of a peer that `join`ed is gone. Nothing of it is acknowledged on the next one,
        where the same identifier may be of a message that is not on disk."""
        for acks in self._pending:
            acks.pop(conn, None)
        conn.unacked_bytes, conn.held = 0, []
        self._waiting.pop(conn, None)
        conn.hold(False)

    def room(self) -> None:
        """The outbox may have room again: take what was held."""
        self.wills.room()
        for conn in list(self._waiting):
            held, conn.held = conn.held, []
            if conn in self._joined or self._is_here(conn):
                self.take(conn, held, time.monotonic())
            if conn.held:
                if len(conn.held) < len(held):  # it had its turn; a big one keeps waiting for it
                    self._waiting.pop(conn, None)
                    self._waiting[conn] = None
                return
            self._waiting.pop(conn, None)
            conn.go_on(time.monotonic())

    def _is_here(self, conn: Peer) -> bool:
        """Whether this is the connection that its client has now."""
        return conn.session is not None and self._by_id.get(conn.session.client_id) is conn

    # --- ends

    def closed(self, conn: Peer, clean: bool) -> None:
        session = conn.session
        if session is None or self._by_id.get(session.client_id) is not conn:
            return
        del self._by_id[session.client_id]
        self._waiting.pop(conn, None)
        session.out = None
        if session.clean:
            self.locals.forget(session)
            self.forget_received(session)
        will, conn.will = conn.will, None
        log.info("disconnected client=%s clean=%s", session.client_id, clean)
        self.wills.closed(session.client_id, will, clean)

    def flush(self, session: Session) -> None:
        """Write what a session has to send; what is retained goes on as its socket takes it."""
        conn = self._by_id.get(session.client_id)
        if session.out:
            if conn is not None:
                conn.write(bytes(session.out))
            session.out.clear()
        if session.owed[0] and not session.feeding and conn is not None and not conn.congested:
            session.feeding = True
            asyncio.get_running_loop().call_soon(self._feed, session)

    def writable(self, conn: Peer) -> None:
        """A congested socket has room again."""
        if self._is_here(conn):
            assert conn.session is not None
            self.flush(conn.session)

    def _feed(self, session: Session) -> None:
        session.feeding = False
        conn = self._by_id.get(session.client_id)
        if session.out is not None and conn is not None and not conn.congested:
            session.feed()
            self.flush(session)
