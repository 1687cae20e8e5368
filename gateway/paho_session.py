"""An MQTT session by paho, on buffers instead of on its socket: the only file that imports paho.

paho owns the session: TCP, TLS, WebSocket, CONNECT, will, and whatever the broker says about it.
PUBLISH and its acknowledgements go past it, in batches, on the same socket: paho reads from
`feed`, which holds only the packets that are for it, and writes to `out`, which is also ours.
(paho 2.x reads one byte a call and takes two locks a message.)

paho calls back with a lock held that closing its socket takes, too. So its callbacks only note
what came; `take` reads the notes once paho has returned, and whoever called `take` acts on them.
"""

from __future__ import annotations

import socket
from typing import Any, NamedTuple

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from gateway import proxy, tcp
from gateway.config import UpstreamConfig
from gateway.errors import UnreachableError
from gateway.flight import Limits

READ_BYTES = 262_144
WRITE_BYTES = 262_144
KERNEL_BYTES = 131_072  # unsent, with the kernel: what is behind it waits for it
CONNECT_TIMEOUT_S = 8.0
QOS_NOT_SUPPORTED, RETAIN_NOT_SUPPORTED = 0x9B, 0x9A  # MQTT 5.0 section 3.2.2.2
# MQTT 3.1.1 cannot say how much a broker takes at once. Mosquitto takes 20 where nothing is
# configured, and 2.0.11 sent more loses or doubles at QoS 2.
SAFE_INFLIGHT, MOST_INFLIGHT = 20, 1000


class Accepted(NamedTuple):
    """A CONNACK: session present, what it allows, the Server Keep Alive [s], 0 for none."""

    session_present: bool
    limits: Limits
    keepalive_s: int


class Granted(NamedTuple):
    """A SUBACK: a code for each filter (section 3.9.3)."""

    codes: list[int]


class Ended(NamedTuple):
    """The session has ended by a packet of the broker.

    code: of its DISCONNECT (MQTT 5.0 section 3.14.2.1), 0 for none.
    """

    reason: str
    code: int = 0


Note = Accepted | Granted | Ended


class PahoSession(paho.Client):
    """One persistent session.

    forget: begin with a session of no past, since the outbox that knew its packet identifiers is
    gone; what the broker still held under them would swallow new messages. That takes a
    connection of its own, which ends with `forgotten` set (clean session 1, section 3.1.2.4 of
    MQTT 3.1.1; at 5 it is a clean start of a session that expires with the connection).
    """

    def __init__(self, config: UpstreamConfig, will_topic: str | None, *,
                 forget: bool = False) -> None:
        self.v5 = config.protocol == "5"
        super().__init__(CallbackAPIVersion.VERSION2, client_id=config.client_id,
                         clean_session=None if self.v5 else False, reconnect_on_failure=False,
                         protocol=paho.MQTTv5 if self.v5 else paho.MQTTv311,
                         transport="websockets" if config.websocket else "tcp")
        self.feed = bytearray()
        self.out = bytearray()
        self.handed_bytes = 0  # of what was in `out`, with the kernel
        self.will_retain = True
        self.forgotten = False  # the past is gone; connect again, now to stay
        self._forget = forget
        self._config = config
        self._proxy = config.through()
        self._said_topic, self._said_qos = will_topic, 1
        if config.websocket:
            self.ws_set_options(path=config.websocket_path)
        if config.tls:
            self.tls_set(ca_certs=config.ca_file, certfile=config.cert_file,
                         keyfile=config.key_file)
            self.tls_insecure_set(config.tls_insecure)
        if config.username:
            self.username_pw_set(config.username, config.password_text())
        self._set_will()
        self.connect_timeout = CONNECT_TIMEOUT_S
        self.connect_async(config.host, config.port)  # only notes it, for `dial`
        self._made: Any = None  # what `dial` made, for paho to take
        self._closed = False  # paho wants its socket closed
        # what paho's callbacks noted
        self._connack: tuple[bool, ReasonCode, Properties | None] | None = None
        self._suback: list[ReasonCode] | None = None
        self._said, self._code = "", 0
        self.on_connect = self._on_connack
        self.on_subscribe = self._on_suback
        self.on_disconnect = self._on_disconnected

    def _set_will(self) -> None:
        if self._said_topic is not None:
            self.will_set(self._said_topic, b"offline", qos=self._said_qos,
                          retain=self.will_retain)

    # --- what the link calls

    def dial(self) -> Any:
        """Blocking, for any thread: name look-up, TCP, proxy, TLS, WebSocket.

        Returns the socket for `begin`; leaves the session as it is. Raises OSError, ValueError.
        """
        return super()._create_socket()

    def begin(self, sock: Any) -> None:
        """Begin the session on a socket; CONNECT is in `out` then."""
        config = self._config
        self.feed.clear()
        self.out.clear()
        self.forgotten = False
        self._connack = self._suback = None
        self._made, self._said, self._code = sock, "", 0
        self.handed_bytes = 0
        if self.v5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = 0 if self._forget else 0xFFFFFFFF
            properties.ReceiveMaximum = 1000
            self.connect_async(config.host, config.port, keepalive=config.keepalive_s,
                               clean_start=self._forget, properties=properties)
        else:
            self._clean_session = self._forget
            self.connect_async(config.host, config.port, keepalive=config.keepalive_s)
        self.reconnect()
        self._closed = False

    def descriptor(self) -> int:
        """The socket's number, its options set. Raises ConnectionError where there is none.

        TCP_USER_TIMEOUT is not among them: on a lossy line it counts across progress.
        """
        sock, raw = self.socket(), self._raw()
        if sock is None or raw is None:
            raise ConnectionError("no socket")
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tcp.keep_queue_short(raw, KERNEL_BYTES)
        return sock.fileno()

    def _raw(self) -> Any:
        sock: Any = self.socket()
        return sock if isinstance(sock, socket.socket) else getattr(sock, "_socket", sock)

    def moved(self) -> tcp.Moved | None:
        """What the kernel says of the connection."""
        return tcp.moved(self._raw())

    def take(self, packet: bytes) -> Note | None:
        """Let paho read one control packet; returns what it means for us, if anything."""
        self.feed += packet
        try:
            while self.feed and not self._closed:
                if self.loop_read() != MQTTErrorCode.MQTT_ERR_SUCCESS:
                    self._closed = True
        except Exception as error:  # paho's parser meets bad packets with any
            return Ended(f"the broker sent a bad packet: {error!r}")
        note: Note | None = None
        if self._connack is not None:
            (present, reason, properties), self._connack = self._connack, None
            note = self._answered(present, reason, properties)
        elif self._suback is not None:
            note, self._suback = Granted([code.value for code in self._suback]), None
        if self._closed and not isinstance(note, Ended):
            return Ended(self._said or "refused", self._code)
        return note

    def _answered(self, present: bool, reason: ReasonCode,
                  properties: Properties | None) -> Note:
        """What a CONNACK means."""
        if reason.is_failure:
            # A will that the broker cannot have is made smaller for the next try.
            if reason.value == RETAIN_NOT_SUPPORTED:
                self.will_retain = False
            elif reason.value == QOS_NOT_SUPPORTED:
                self._said_qos = 0
            self._set_will()
            return Ended(f"refused by the broker: {reason}")
        if self._forget:
            self._forget, self.forgotten = False, True
            return Ended("the session of before is forgotten")
        limits = Limits(v5=self.v5, window=self._config.inflight or (
            MOST_INFLIGHT if self.v5 else SAFE_INFLIGHT))
        keepalive_s = 0
        if properties is not None and self.v5:
            limits.window = min(limits.window, getattr(properties, "ReceiveMaximum", 65535))
            limits.max_qos = getattr(properties, "MaximumQoS", 2)
            limits.retain = bool(getattr(properties, "RetainAvailable", 1))
            limits.max_packet_bytes = getattr(properties, "MaximumPacketSize", 268_435_455)
            keepalive_s = getattr(properties, "ServerKeepAlive", 0)
        return Accepted(present, limits, keepalive_s)

    def receive(self) -> bytes:
        """Read from the real socket. Raises BlockingIOError when there is nothing."""
        return super()._sock_recv(READ_BYTES)

    def transmit(self) -> None:
        """Write to the real socket as much as it takes. Raises BlockingIOError, OSError."""
        while self.out:
            count = super()._sock_send(bytes(self.out[:WRITE_BYTES]))
            if count == 0:
                return
            del self.out[:count]
            self.handed_bytes += count

    def shut(self) -> None:
        """Close the socket; nothing may watch it any more."""
        super()._sock_close()

    # --- what paho calls; nothing here but noting, see above

    def _create_socket(self) -> Any:
        sock, self._made = self._made, None
        return sock

    def _sock_close(self) -> None:
        self._closed = True  # the event loop watches it still; see `shut`

    def _create_socket_connection(self) -> socket.socket:
        host, port = self._config.host, self._config.port
        if self._proxy is not None:
            return proxy.connect(self._proxy, host, port, self.connect_timeout)
        try:
            return super()._create_socket_connection()
        except TimeoutError as error:
            raise UnreachableError(
                f"{host}:{port}: no answer within {self.connect_timeout:g} s") from error
        except OSError as error:
            raise UnreachableError(f"{host}:{port}: {error.strerror or error}") from error

    def _sock_recv(self, bufsize: int) -> bytes:
        if not self.feed:
            raise BlockingIOError
        part = bytes(self.feed[:bufsize])
        del self.feed[:bufsize]
        return part

    def _sock_send(self, buf: bytes | bytearray) -> int:
        self.out += buf
        return len(buf)

    def _on_connack(self, _client: paho.Client, _userdata: Any, flags: paho.ConnectFlags,
                    reason: ReasonCode, properties: Properties | None) -> None:
        self._connack = flags.session_present, reason, properties

    def _on_suback(self, _client: paho.Client, _userdata: Any, _mid: int,
                   codes: list[ReasonCode], _properties: Properties | None) -> None:
        self._suback = codes

    def _on_disconnected(self, _client: paho.Client, _userdata: Any, flags: paho.DisconnectFlags,
                         reason: ReasonCode, _properties: Properties | None) -> None:
        self._said = f"disconnected: {reason}"
        self._code = reason.value if flags.is_disconnect_packet_from_server else 0
