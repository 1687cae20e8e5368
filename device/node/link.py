"""The MQTT connection, by umqtt.

    DOWN --open()--> TCP --connected--> [TLS] CONNACK --accepted--> SUBACK --granted--> UP
      ^                |                        |                        |               |
      +------ any error, any deadline, close(): the socket is closed --------------------+

Rules:
- step() is called often and never waits; every state but DOWN has a deadline.
- Whatever goes wrong, of whatever type (umqtt raises AssertionError, IndexError and TypeError as
  well as OSError and MQTTException), is caught in step() and send(), and closes the socket: after
  an error nothing that comes from it can be trusted, a late PUBACK least of all.
- One packet that wants an answer at a time.
- It asks for nothing by itself on reconnect but its one subscription.
"""

import socket

from micropython import const

from node.wire import Broken, Pending

DOWN = const(0)
CONNECTING = const(1)
_CONNACK = const(2)
_SUBACK = const(3)
UP = const(4)

_CONNECT_MS = const(5000)  # for TCP, and for each of CONNACK (with TLS) and SUBACK
_TLS_MS = const(15000)  # for the TLS handshake with CONNACK: 1 s on a quiet ESP32
_PING_MS = const(5000)  # for PINGRESP
_PACKET_MS = const(5000)  # for the rest of a packet, and for the network to take what we send
_PUBACK_MS = const(10000)
_LOOK_AFTER = const(3)  # failed connects, then the address is looked up anew


class Link:
    """A connection to one broker, opened and closed many times.

    Made by node.linking. What it knows of a connection: state, and since when or until when [ms]
    something is (_ping and _stuck: 0 where it is not), _part: how far a packet is that has not
    come whole, _pid: the packet identifier that waits for its PUBACK, 0 for none.
    """

    def open(self):
        """Begin to connect. Does not wait, except for the look-up of a host name."""
        self.close("")
        try:
            if isinstance(self.tls, str):
                raise Broken(self.tls)
            # this may block, so the answer is kept; one of before is better than none
            if self.addr is None or self.failed and self.failed % _LOOK_AFTER == 0:
                client = self.client
                try:
                    self.addr = socket.getaddrinfo(client.server, client.port)[0][-1]
                except OSError:
                    if self.addr is None:
                        raise
            self.wire.open(self.addr)
        except Exception as error:
            self._fail(error)
            return
        self._enter(CONNECTING, _CONNECT_MS)

    def close(self, why):
        """Close at once, without DISCONNECT: the broker publishes the will."""
        self.wire.close()
        self.state = DOWN
        self._ping = self._part = self._stuck = self._pid = 0
        self._inbox.clear()
        self.why = why or self.why

    def send(self, topic, msg, retain=False, qos=0):
        """Publish. Return False if the link is not UP or has something to send still.

        At QoS 1, waiting() is true until its PUBACK has come or the link is closed.
        """
        if self.state != UP or not self.wire.idle() or (qos and self._pid):
            return False
        try:
            self._wrap_pid()
            try:
                self.client.publish(topic, msg, retain, qos)
            except Pending:
                pass
            if qos:
                self._pid = self.client.pid
                self._puback_by = self.now_ms() + _PUBACK_MS
            self._said = self.now_ms()
            self.wire.flush()
        except Exception as error:
            self._fail(error)
            return False
        return True

    def waiting(self):
        """Return whether a PUBACK is still to come."""
        return self._pid != 0

    def messages(self):
        """Return the next message that came as (topic, payload), or None."""
        return self._inbox.pop(0) if self._inbox else None

    def step(self):
        """Go on as far as that is possible now. Errors of the network are caught here."""
        if self.state == DOWN:
            return
        try:
            self._step(self.now_ms())
        except Exception as error:
            self._fail(error)

    def _fail(self, error):
        if self.state != UP:
            self.failed += 1
        self.close("%s %s" % (type(error).__name__, error))

    def _enter(self, state, ms):
        self.state = state
        self._deadline = self.now_ms() + ms

    def _wrap_pid(self):
        if self.client.pid >= 65535:  # umqtt counts on, and 65536 goes out as 0
            self.client.pid = 0

    def _note(self, topic, msg):
        if len(self._inbox) < 4:
            self._inbox.append((topic, msg))

    def _step(self, now):
        if self.state == CONNECTING:
            if self.wire.opened():
                if self.tls:
                    self.wire.secure(self.tls, self.client.server)
                try:
                    self.client.connect()
                except Pending:
                    pass
                self._heard = self._said = now
                self._enter(_CONNACK, _TLS_MS if self.tls else _CONNECT_MS)
            elif now > self._deadline:
                raise Broken("no TCP connection")
            return
        while True:
            kind = self.wire.packet()
            if kind is None:
                break
            self._heard = self._half = now
            self._packet(kind)
        # sent last: TLS, which in a handshake may want to read for that, then waits for what it
        # wants (modtls_mbedtls.c: poll_mask), where a read behind it would let wait() spin
        if self.wire.flush() or self.wire.idle():
            self._stuck = 0
        elif not self._stuck:
            self._stuck = now
        self._deadlines(now)

    def _packet(self, kind):
        body = self.wire.body()
        high = kind & 0xF0
        if self.state == _CONNACK:
            if kind != 0x20 or len(body) != 2:
                raise Broken("no CONNACK but another packet")
            if body[1]:
                raise Broken("refused, code %d" % body[1])
            self._wrap_pid()
            try:
                self.client.subscribe(self.prefix + b"down/#")
            except Pending:
                pass
            self._enter(_SUBACK, _CONNECT_MS)
        elif high == 0x30:
            if not kind & 1:  # retained: nobody says it now, and a "reboot" would never end
                self.client.check_msg()
        elif kind == 0x90 and self.state == _SUBACK:
            if len(body) != 3 or body[0] << 8 | body[1] != self.client.pid or body[2] & 0x80:
                raise Broken("subscription refused")
            self.failed = 0
            self.connects += 1
            self.state = UP
        elif kind == 0x40 and len(body) == 2:
            if body[0] << 8 | body[1] == self._pid:
                self._pid = 0  # any other is late, of a packet we have given up
        elif kind == 0xD0:
            self._ping = 0
        else:
            raise Broken("packet of type %d" % (kind >> 4))

    def _deadlines(self, now):
        if self.state != UP and now > self._deadline:
            raise Broken("no CONNACK in time" if self.state == _CONNACK else "no SUBACK in time")
        part = self.wire.half()
        if part != self._part:
            self._part = part
            self._heard = self._half = now
        elif part and now - self._half > _PACKET_MS:
            raise Broken("half a packet")
        if self._stuck and now - self._stuck > _PACKET_MS and self.state == UP:
            raise Broken("cannot send")
        if self._pid and now > self._puback_by:
            raise Broken("no PUBACK in time")
        if self._ping:
            if now - max(self._ping, self._heard) > _PING_MS:
                raise Broken("no PINGRESP")
        elif self.state == UP and self.wire.idle():
            quiet = self.client.keepalive * 500
            if quiet and (now - self._heard > quiet or now - self._said > quiet):
                self.client.ping()
                self._ping = self._said = now
