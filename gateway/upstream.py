"""The link to the upstream broker: the only file that imports paho.

paho owns the session: TCP, TLS, WebSocket, CONNECT, will, PINGREQ. PUBLISH and its
acknowledgements go past it, in batches, on the same socket: `_Client` reads what paho asks for
from a buffer that `Upstream` fills with the packets that are not ours, and writes to a buffer that
`Upstream` empties. (paho 2.x reads one byte a call and takes two locks a message.)
"""

from __future__ import annotations

import asyncio
import logging
import random
import socket
import time
from typing import Any, Protocol

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from gateway import wire
from gateway.config import UpstreamConfig
from gateway.errors import ProtocolError
from gateway.flight import Limits

log = logging.getLogger("tidegate.upstream")

READ_BYTES = 262_144
WRITE_LIMIT_BYTES = 262_144
PING_S = 4.0  # silence after which we ask, see DEAD_S
DEAD_S = 9.0  # silence after which the link is given up
QOS_NOT_SUPPORTED, RETAIN_NOT_SUPPORTED = 0x9B, 0x9A  # MQTT 5.0 section 3.2.2.2
BACKOFF_FIRST_S, BACKOFF_MOST_S = 0.5, 30.0


class Listener(Protocol):
    """What the link tells."""

    def upstream_connected(self, session_present: bool, limits: Limits) -> None: ...
    def upstream_acks(self, acks: list[wire.Ack]) -> None: ...
    def upstream_writable(self) -> None: ...
    def upstream_lost(self, by_broker: bool) -> None: ...
    def upstream_message(self, topic: str, payload: bytes, retain: bool) -> None: ...


class _Client(paho.Client):
    """paho on buffers instead of on its socket."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.feed = bytearray()
        self.out = bytearray()

    def _sock_recv(self, bufsize: int) -> bytes:
        if not self.feed:
            raise BlockingIOError
        part = bytes(self.feed[:bufsize])
        del self.feed[:bufsize]
        return part

    def _sock_send(self, buf: bytes | bytearray) -> int:
        self.out += buf
        return len(buf)

    def receive(self) -> bytes:
        """Read from the real socket. Raises BlockingIOError when there is nothing."""
        return super()._sock_recv(READ_BYTES)

    def transmit(self) -> None:
        """Write to the real socket as much as it takes."""
        while self.out:
            count = super()._sock_send(bytes(self.out[:WRITE_LIMIT_BYTES]))
            if count == 0:
                return
            del self.out[:count]


class Upstream:
    """Keeps one link up, with full jitter between tries, until stopped."""

    def __init__(self, config: UpstreamConfig, listener: Listener, will_topic: str) -> None:
        self.config, self._listener = config, listener
        self.connected = False
        self.state = "starting"  # one word or a short reason, for people
        self.connects = 0
        self._buffer = b""
        self._fd = -1
        self._tried = 0
        self._last_in_s = self._last_ping_s = 0.0
        self._lost: asyncio.Event = asyncio.Event()
        self._rng = random.Random()
        self._reason = ""
        self._will_topic, self._will_qos, self._will_retain = will_topic, 1, True
        self._ping_s = PING_S
        self._client = self._make_client(will_topic)

    def _make_client(self, will_topic: str) -> _Client:
        config = self.config
        v5 = config.protocol == "5"
        client = _Client(CallbackAPIVersion.VERSION2, client_id=config.client_id,
                         clean_session=None if v5 else False, reconnect_on_failure=False,
                         protocol=paho.MQTTv5 if v5 else paho.MQTTv311,
                         transport="websockets" if config.websocket else "tcp")
        if config.websocket:
            client.ws_set_options(path=config.websocket_path)
        if config.tls:
            client.tls_set(ca_certs=config.ca_file, certfile=config.cert_file,
                           keyfile=config.key_file)
            client.tls_insecure_set(config.tls_insecure)
        if config.username:
            client.username_pw_set(config.username, config.password_text())
        client.will_set(will_topic, b"offline", qos=self._will_qos, retain=self._will_retain)
        client.connect_timeout = 8.0
        client.on_connect = self._on_connect
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_socket_close = lambda *_: self._detach()
        return client

    # --- what the bridge calls

    def write(self, parts: list[bytes]) -> None:
        """Send packets; `writable` says whether more are welcome."""
        self._client.out += b"".join(parts)
        self._flush()

    def writable(self) -> bool:
        """Whether another batch should be offered."""
        return self.connected and len(self._client.out) < WRITE_LIMIT_BYTES

    def drop(self, reason: str) -> None:
        """Give the link up; it is tried again after a backoff."""
        if self._fd >= 0:
            log.warning("upstream dropped reason=%r", reason)
        self._close(reason)

    async def run(self) -> None:
        """Connect, watch, connect again; for ever."""
        loop = asyncio.get_running_loop()
        while True:
            self.state = "connecting"
            self._lost.clear()
            self._client.feed.clear()
            self._client.out.clear()
            self._buffer, self._reason = b"", ""
            try:
                await loop.run_in_executor(None, self._dial)
                self._attach()
                await self._watch()
            except (OSError, ValueError) as error:
                self._close(str(error) or type(error).__name__)
            self._tried += 1
            most_s = min(BACKOFF_MOST_S, BACKOFF_FIRST_S * 2 ** min(self._tried, 8))
            wait_s = self._rng.uniform(0, most_s)
            log.warning("upstream away reason=%r try=%d next_try_s=%.1f", self._reason,
                        self._tried, wait_s)
            self.state = f"away: {self._reason}"
            await asyncio.sleep(wait_s)

    def close(self) -> None:
        """Say what the will would say, and DISCONNECT, which takes the will away."""
        if self.connected:
            self._client.out += wire.encode_publish(
                wire.encode_text(self._will_topic), b"offline", 0, self._will_retain, False, 0,
                v5=self.config.protocol == "5") + b"\xe0\x00"
            self._flush()
        self._close("stopped")

    # --- the link

    def _dial(self) -> None:
        """Blocking: name look-up, TCP, TLS, WebSocket (in a thread)."""
        config, client = self.config, self._client
        properties = None
        if config.protocol == "5":
            properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
            properties.SessionExpiryInterval = 0xFFFFFFFF
            properties.ReceiveMaximum = 100
            client.connect_async(config.host, config.port, keepalive=config.keepalive_s,
                                 clean_start=False, properties=properties)
        else:
            client.connect_async(config.host, config.port, keepalive=config.keepalive_s)
        client.reconnect()

    def _attach(self) -> None:
        sock = self._client.socket()
        if sock is None:
            raise ConnectionError("no socket")
        raw: Any = sock if isinstance(sock, socket.socket) else getattr(sock, "_socket", sock)
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(DEAD_S * 1000))
        self._fd = sock.fileno()
        self._last_in_s = self._last_ping_s = time.monotonic()
        asyncio.get_running_loop().add_reader(self._fd, self._readable)
        self._flush()

    async def _watch(self) -> None:
        """Return when the link is lost. A silent peer is asked, then given up."""
        while not self._lost.is_set():
            try:
                # not wait_for, which in Python 3.11 can swallow a cancellation
                async with asyncio.timeout(min(1.0, self._ping_s / 2)):
                    await self._lost.wait()
            except TimeoutError:
                pass
            now_s = time.monotonic()
            silent_s = now_s - self._last_in_s
            if self._fd >= 0 and silent_s > DEAD_S:
                self.drop(f"nothing heard for {silent_s:.0f} s")
            elif self.connected and now_s - max(self._last_in_s, self._last_ping_s) > self._ping_s:
                self._last_ping_s = now_s
                self._client.out += b"\xc0\x00"
                self._flush()

    def _readable(self) -> None:
        received: list[bytes] = []
        try:
            while True:
                part = self._client.receive()
                if not part:
                    if not received:
                        self._close("closed by the broker", by_broker=True)
                        return
                    break
                received.append(part)
                if len(part) < READ_BYTES and not self.config.tls and not self.config.websocket:
                    break
        except BlockingIOError:
            pass
        except OSError as error:
            self._close(str(error), by_broker=isinstance(error, ConnectionResetError))
            return
        if received:
            self._last_in_s = time.monotonic()
            self._take(self._buffer + b"".join(received))

    def _take(self, data: bytes) -> None:
        try:
            packets, used = wire.decode(data, v5=self.config.protocol == "5", client=True)
        except ProtocolError as error:
            self.drop(f"the broker sent a bad packet: {error}")
            return
        self._buffer = data[used:]
        acks: list[wire.Ack] = []
        for packet in packets:
            if isinstance(packet, wire.Ack):
                acks.append(packet)
            elif isinstance(packet, wire.Raw) and packet.kind != wire.PINGRESP:
                self._to_paho(packet.data)
            elif isinstance(packet, wire.Publish):
                self._listener.upstream_message(packet.topic, packet.payload, packet.retain)
        if acks and self.connected:
            self._listener.upstream_acks(acks)
        if self.connected:
            self._listener.upstream_writable()

    def _to_paho(self, packet: bytes) -> None:
        """Let paho read one control packet, and close where it did not like it."""
        self._client.feed += packet
        while self._client.feed:
            ended = self._client.loop_read() != MQTTErrorCode.MQTT_ERR_SUCCESS
            if ended or self._client.socket() is None:  # by DISCONNECT or CONNACK
                self._close(self._reason or "refused", by_broker=True)
                return

    def _flush(self) -> None:
        if self._fd < 0:
            return
        if self._client.want_write():
            self._client.loop_write()
        loop = asyncio.get_running_loop()
        try:
            self._client.transmit()
        except BlockingIOError:
            pass
        except OSError as error:
            self._close(str(error), by_broker=isinstance(error, (ConnectionResetError,
                                                                 BrokenPipeError)))
            return
        if self._client.out:
            loop.add_writer(self._fd, self._drained)
        else:
            loop.remove_writer(self._fd)

    def _drained(self) -> None:
        self._flush()
        if self.writable():
            self._listener.upstream_writable()

    def _close(self, reason: str, *, by_broker: bool = False) -> None:
        self._detach()
        self._reason = reason
        was, self.connected = self.connected, False
        self._client._sock_close()
        if was:
            self._listener.upstream_lost(by_broker)
        self._lost.set()

    def _detach(self) -> None:
        """Stop watching the socket; before anybody closes it, or its number is another's."""
        if self._fd >= 0:
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._fd)
            loop.remove_writer(self._fd)
            self._fd = -1

    # --- paho's callbacks

    def _on_connect(self, _client: paho.Client, _userdata: Any, flags: paho.ConnectFlags,
                    reason: ReasonCode, properties: Properties | None) -> None:
        if reason.is_failure:
            self._reason = f"refused by the broker: {reason}"
            if reason.value == RETAIN_NOT_SUPPORTED and self._will_retain:
                self._will_retain = False
            elif reason.value == QOS_NOT_SUPPORTED and self._will_qos:
                self._will_qos = 0
            else:
                return
            self._client.will_set(self._will_topic, b"offline", qos=self._will_qos,
                                  retain=self._will_retain)
            return
        self.connected, self.state, self._tried = True, "connected", 0
        self.connects += 1
        self._ping_s = PING_S
        limits = Limits(window=self.config.inflight, v5=self.config.protocol == "5")
        if properties is not None and limits.v5:
            limits.window = min(limits.window, getattr(properties, "ReceiveMaximum", 65535))
            limits.max_qos = getattr(properties, "MaximumQoS", 2)
            limits.retain = bool(getattr(properties, "RetainAvailable", 1))
            limits.max_packet_bytes = getattr(properties, "MaximumPacketSize", 268_435_455)
            keepalive_s = getattr(properties, "ServerKeepAlive", 0)
            if keepalive_s:
                self._ping_s = min(PING_S, keepalive_s / 2)
        log.info("upstream connected host=%s port=%d session_present=%s window=%d max_qos=%d",
                 self.config.host, self.config.port, flags.session_present, limits.window,
                 limits.max_qos)
        self._listener.upstream_connected(flags.session_present, limits)

    def _on_disconnect(self, _client: paho.Client, _userdata: Any, _flags: Any,
                       reason: ReasonCode, _properties: Properties | None) -> None:
        self._reason = self._reason or f"disconnected: {reason}"

    def _on_message(self, *_: Any) -> None:
        """Never: PUBLISH packets do not reach paho."""


