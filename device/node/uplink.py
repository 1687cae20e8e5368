"""The device contract (docs/contract.md) over a link: batches out, acknowledgements in.

Rules:
- One batch in flight. It is out of the ring when the gateway acknowledges it (delivery "gateway")
  or when its PUBACK has come (delivery "broker").
- No acknowledgement within _ACK_MS: the connection is closed, and after the backoff all goes out
  again from the lowest record held.
- An acknowledgement that moves nothing on is no reason to send again at once.
- The backoff starts over when a record was acknowledged, not when a connection stood: a gateway
  that takes connections and no records is not hammered.
"""

import json

from micropython import const

from node.link import CONNECTING, DOWN, UP
from node.records import build

_ACK_MS = const(10000)
_STALL_MS = const(1000)


class Uplink:
    """Keeps a link open and empties a ring through it.

    link, ring, backoff: see their classes. rand: returns 0 up to 1. now_ms: the uptime [ms].
    about: writes its payload into a buffer, returns the length. command: called with a command
    (dict), returns its answer.
    qos: of batches, 0 or 1. to_broker: delivery "broker".
    """

    def __init__(self, link, ring, backoff, rand, now_ms, prefix, about, command, qos=0,
                 to_broker=False):  # fmt: skip
        self.link = link
        self.ring = ring
        self.backoff = backoff
        self.rand = rand
        self.now_ms = now_ms
        self.about = about
        self.command = command
        self.qos = 1 if to_broker else qos
        self.to_broker = to_broker
        self.prefix = prefix
        self.room = len(prefix) + 15  # fixed header, topic and packet identifier of what goes out
        self._flight = None  # (life, boot, last seq) of the batch that is out
        self._flight_by = 0
        self._todo = []  # (last part of the topic, payload, retain, qos) to send before a batch
        self._open_at = 0
        self._stall_until = 0
        self._was = DOWN
        self.acked = 0  # records, since the start

    def step(self, up):
        """Go on as far as that is possible now."""
        link = self.link
        now = self.now_ms()
        if not up and link.state != DOWN:
            link.close("no network")
        self._note_state(now)  # before it is opened again: what was in flight is not acknowledged
        if not up:
            self._open_at = now
            return
        if link.state == DOWN and now >= self._open_at:
            link.open()
            self._was = CONNECTING  # even if it failed at once
            now = self.now_ms()  # looking up a name may have taken seconds
        link.step()
        self._note_state(now)
        if link.state != UP:
            return
        while True:
            message = link.messages()
            if message is None:
                break
            self.take(message, now)
        self._send(now)
        self._note_state(now)

    def again(self):
        """Publish about once more."""
        if self.link.state == UP:
            self._todo.append((b"about", None, True, 0))  # written when it goes out

    def _note_state(self, now):
        state = self.link.state
        if state == self._was:
            return
        if state == UP:
            print("online")
            self._todo = [(b"status", b"online", True, 1)]
            self.again()
        elif state == DOWN:
            wait_ms = self.backoff.next_ms(self.rand())
            print("offline %s again in %d ms" % (self.link.why, wait_ms))
            self._open_at = now + wait_ms
            self._flight = None
            self._todo = []
        self._was = state

    def take(self, msg, now):
        topic, payload = msg
        try:
            data = json.loads(payload)
            if topic.endswith(b"/down/ack"):
                self._acked(data, now)
            elif topic.endswith(b"/down/cmd"):
                if len(self._todo) < 8:  # no answer, no deed
                    answer = json.dumps(self.command(data)).encode()
                    self._todo.append((b"answer", answer, False, 0))
        except Exception as error:  # of whatever type: a message does not stop the board
            print("unreadable message", topic, type(error).__name__, error)

    def _acked(self, data, now):
        life = bytes(int(data["life"][i : i + 2], 16) for i in (0, 2, 4, 6))
        boot, seq, utc_ms, t0_ms = data["boot"], data["seq"], data.get("utc_ms"), data.get("t0")
        ring = self.ring
        gone = ring.ack(life, boot, seq)
        self.acked += gone
        if t0_ms and life == ring.life and boot == ring.boot:
            ring.learned_time(t0_ms)  # however late it comes
        elif utc_ms:
            ring.learned_time(utc_ms - now, True)
        flight = self._flight
        if flight and flight[0] == life and flight[1] == boot:
            self._flight = None
            if gone:
                self.backoff.reset()
            elif seq < flight[2]:
                self._stall_until = now + _STALL_MS

    def _send(self, now):
        link = self.link
        flight = self._flight
        if flight:
            if self.to_broker and not link.waiting():
                self.acked += self.ring.ack(*flight)
                self._flight = None
                self.backoff.reset()
            elif now > self._flight_by:
                link.close("no acknowledgement")
                return
        if not link.wire.idle():
            return
        out = link.wire.room(self.room)
        if self._todo:
            last, payload, retain, qos = self._todo[0]
            if payload is None:
                try:
                    payload = out[: self.about(out)]
                except (MemoryError, ValueError):  # it is only a report
                    print("no room for about")
                    self._todo.pop(0)
                    return
            if link.send(self.prefix + last, payload, retain, qos):
                self._todo.pop(0)
            return
        if self._flight or now < self._stall_until or (self.qos and link.waiting()):
            return
        built = build(self.ring, out, now)
        if built is None:
            return
        used, life, boot, last = built
        if link.send(self.prefix + b"up", out[:used], False, self.qos):
            self._flight = (life, boot, last)
            self._flight_by = now + _ACK_MS
