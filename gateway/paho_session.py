"""An MQTT session by paho, on buffers instead of on its socket: the only file that imports paho.

paho owns the session: TCP, TLS, WebSocket, CONNECT, will, and whatever the broker says about it.
PUBLISH and its acknowledgements go past it, in batches, on the same socket: paho reads from
`feed`, which holds only the packets that are for it, and writes to `out`, which is also ours.
(paho 2.x reads one byte a call and takes two locks a message.)
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from gateway import proxy
from gateway.config import UpstreamConfig
from gateway.errors import UnreachableError
from gateway.flight import Limits

READ_BYTES = 262_144
WRITE_BYTES = 262_144
CONNECT_TIMEOUT_S = 8.0
QOS_NOT_SUPPORTED, RETAIN_NOT_SUPPORTED = 0x9B, 0x9A  # MQTT 5.0 section 3.2.2.2
# MQTT 3.1.1 cannot say how much a broker takes at once. Mosquitto takes 20 where nothing is
# configured, and 2.0.11 sent more loses or doubles at QoS 2.
SAFE_INFLIGHT, MOST_INFLIGHT = 20, 1000

Opened = Callable[[bool, Limits, int], None]
Subscribed = Callable[[list[int]], None]


class PahoSession(paho.Client):
    """One persistent session.

    opened: called with session present, what the CONNACK allows, and the Server Keep Alive [s]
    (0 where it says none). closing: called before paho closes its socket. subscribed: called with
    the codes of a SUBACK (section 3.9.3), and must not call back. forget: begin with a
    session of no past, since the outbox that knew its packet identifiers is gone; what the broker
    still held under them would swallow new messages. That takes a connection of its own, which
    ends with `forgotten` set (clean session 1, section 3.1.2.4 of MQTT 3.1.1; at 5 it is a clean
    start of a session that expires with the connection).
    """

    def __init__(self, config: UpstreamConfig, will_topic: str | None, opened: Opened,
                 closing: Callable[[], None], *, forget: bool = False,
                 subscribed: Subscribed | None = None) -> None:
        self.v5 = config.protocol == "5"
        super().__init__(CallbackAPIVersion.VERSION2, client_id=config.client_id,
                         clean_session=None if self.v5 else False, reconnect_on_failure=False,
                         protocol=paho.MQTTv5 if self.v5 else paho.MQTTv311,
                         transport="websockets" if config.websocket else "tcp")
        self.feed = bytearray()
        self.out = bytearray()
        self.reason = ""  # why the broker did not want us, if it said so
        self.will_retain = True
        self.forgotten = False  # the past is gone; connect again, now to stay
        self._forget = forget
        self._config, self._opened = config, opened
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
        self.on_connect = self._connected
        self.on_disconnect = self._disconnected
        self.on_socket_close = lambda *_: closing()
        if subscribed is not None:
            self.on_subscribe = lambda _client, _userdata, _mid, codes, _properties: subscribed(
                [code.value for code in codes])

    def _set_will(self) -> None:
        if self._said_topic is not None:
            self.will_set(self._said_topic, b"offline", qos=self._said_qos,
                          retain=self.will_retain)

    # --- what the link calls

    def dial(self) -> None:
        """Blocking, for a thread: name look-up, TCP, proxy, TLS, WebSocket.

        CONNECT is in `out` then.
        """
        config = self._config
        self.feed.clear()
        self.out.clear()
        self.reason = ""
        self.forgotten = False
        if self.v5:
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = 0 if self._forget else 0xFFFFFFFF
            properties.ReceiveMaximum = 100
            self.connect_async(config.host, config.port, keepalive=config.keepalive_s,
                               clean_start=self._forget, properties=properties)
        else:
            self._clean_session = self._forget
            self.connect_async(config.host, config.port, keepalive=config.keepalive_s)
        self.reconnect()

    def descriptor(self, user_timeout_s: float) -> int:
        """The socket's number, its options set. Raises ConnectionError where there is none.

        user_timeout_s: how long sent bytes may stay unacknowledged by the peer's TCP [s].
        """
        sock = self.socket()
        if sock is None:
            raise ConnectionError("no socket")
        raw: Any = sock if isinstance(sock, socket.socket) else getattr(sock, "_socket", sock)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(user_timeout_s * 1000))
        return sock.fileno()

    def take(self, packet: bytes) -> bool:
        """Let paho read one control packet; False where the session has ended by it."""
        self.feed += packet
        while self.feed:
            if self.loop_read() != MQTTErrorCode.MQTT_ERR_SUCCESS or self.socket() is None:
                return False
        return not self.forgotten

    def receive(self) -> bytes:
        """Read from the real socket. Raises BlockingIOError when there is nothing."""
        return super()._sock_recv(READ_BYTES)

    def transmit(self) -> None:
        """Write to the real socket as much as it takes. Raises BlockingIOError, OSError."""
        if self.want_write():
            self.loop_write()
        while self.out:
            count = super()._sock_send(bytes(self.out[:WRITE_BYTES]))
            if count == 0:
                return
            del self.out[:count]

    def shut(self) -> None:
        """Close the socket."""
        self._sock_close()

    # --- what paho calls

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

    def _connected(self, _client: paho.Client, _userdata: Any, flags: paho.ConnectFlags,
                   reason: ReasonCode, properties: Properties | None) -> None:
        if reason.is_failure:
            self.reason = f"refused by the broker: {reason}"
            # A will that the broker cannot have is made smaller for the next try.
            if reason.value == RETAIN_NOT_SUPPORTED:
                self.will_retain = False
            elif reason.value == QOS_NOT_SUPPORTED:
                self._said_qos = 0
            self._set_will()
            return
        if self._forget:
            self._forget, self.forgotten = False, True
            return
        limits = Limits(v5=self.v5, window=self._config.inflight or (
            MOST_INFLIGHT if self.v5 else SAFE_INFLIGHT))
        keepalive_s = 0
        if properties is not None and self.v5:
            limits.window = min(limits.window, getattr(properties, "ReceiveMaximum", 65535))
            limits.max_qos = getattr(properties, "MaximumQoS", 2)
            limits.retain = bool(getattr(properties, "RetainAvailable", 1))
            limits.max_packet_bytes = getattr(properties, "MaximumPacketSize", 268_435_455)
            keepalive_s = getattr(properties, "ServerKeepAlive", 0)
        self._opened(flags.session_present, limits, keepalive_s)

    def _disconnected(self, _client: paho.Client, _userdata: Any, _flags: Any,
                      reason: ReasonCode, _properties: Properties | None) -> None:
        self.reason = self.reason or f"disconnected: {reason}"
