"""Where recordings come from: a broker, the wires of a gateway, a mosquitto_sub log."""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from gateway.errors import ProtocolError
from gateway.wire import check_filter
from tools.hil.recording import Event, RecordingError, Writer, publish_event
from tools.hil.wiretap import Wiretap
from tools.proxy import Proxy
from tools.proxy_link import Direction, Link

Began = Callable[[datetime], None]
UNKNOWN = "recorded"
"""The client of a message whose sender a subscriber cannot know."""


def sender(topic: str, level: int) -> str:
    """Return who is taken to have sent to a topic: its level-th level, from 1; 0 for nobody."""
    levels = topic.split("/")
    return levels[level - 1] if 0 < level <= len(levels) else UNKNOWN


def check_filters(filters: Iterable[str]) -> None:
    """Refuse what is no topic filter, before anybody is asked. Raises RecordingError."""
    for topic_filter in filters:
        try:
            check_filter(topic_filter.encode())
        except (ProtocolError, UnicodeEncodeError) as error:
            raise RecordingError(
                f"{topic_filter!r}: not a topic filter: `#` stands alone at the end, `+` alone "
                "in a level") from error


class BrokerRecorder:
    """Subscribes to a broker and writes what arrives, until closed. Raises RecordingError.

    It asks for MQTT 5, where the retain flag comes as it was published, and takes 3.1.1 where
    the broker knows no better. client_level: see `sender`.
    """

    def __init__(self, writer: Writer, host: str, port: int, *, filters: Sequence[str] = ("#",),
                 client_level: int = 0, client_id: str = "", username: str | None = None,
                 password: str | None = None, ca_file: str | None = None) -> None:
        check_filters(filters)
        self._writer, self._host, self._port = writer, host, port
        self._filters, self._client_level = list(filters), client_level
        self._client_id, self._login, self._ca_file = client_id, (username, password), ca_file
        self._ready = threading.Event()
        self._refused = ""
        self._began_ns = time.monotonic_ns()
        self._client: mqtt.Client | None = None

    def start(self, timeout_s: float = 10.0) -> None:
        """Connect and subscribe within timeout_s [s]."""
        for version in (mqtt.MQTTv5, mqtt.MQTTv311):
            self._ready.clear()
            self._refused = ""
            self._connect(version)
            came = self._ready.wait(timeout_s)
            if came and not self._refused:
                return
            self.close()
        raise RecordingError(f"{self._host}:{self._port}: "
                             f"{self._refused or f'no answer within {timeout_s} s'}")

    def _connect(self, version: Any) -> None:
        client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=self._client_id,
                             protocol=version)
        self._client = client
        if self._login[0] is not None:
            client.username_pw_set(*self._login)
        if self._ca_file is not None:
            client.tls_set(self._ca_file)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        try:
            client.connect(self._host, self._port)
        except OSError as error:
            raise RecordingError(f"{self._host}:{self._port}: {error}") from error
        client.loop_start()

    def _on_connect(self, client: mqtt.Client, userdata: Any, flags: mqtt.ConnectFlags,
                    reason: ReasonCode, properties: Any) -> None:
        if reason.is_failure:
            self._refused = str(reason)
            self._ready.set()
        elif client.protocol == mqtt.MQTTv5:
            options = SubscribeOptions(qos=2, retainAsPublished=True)
            client.subscribe([(topic_filter, options) for topic_filter in self._filters])
        else:
            client.subscribe([(topic_filter, 2) for topic_filter in self._filters])

    def _on_subscribe(self, client: mqtt.Client, userdata: Any, mid: int,
                      reasons: list[ReasonCode], properties: Any) -> None:
        if any(reason.is_failure for reason in reasons):
            self._refused = f"SUBSCRIBE refused: {reasons[0]}"
        self._ready.set()

    def _on_message(self, client: mqtt.Client, userdata: Any, message: mqtt.MQTTMessage) -> None:
        t_ns = time.monotonic_ns() - self._began_ns
        self._writer.write(publish_event(
            t_ns, sender(message.topic, self._client_level), message.topic,
            bytes(message.payload), qos=message.qos, retain=bool(message.retain)))

    def close(self) -> None:
        """End; everything that came is written."""
        if self._client is not None:
            self._client.disconnect()
            self._client.loop_stop()
            self._client = None


class WireRecorder:
    """Stands in wires as a proxy and writes what clients say: connects, wills, publishes, ends.

    sides: by name (`device`, `upstream`), the port to listen on (0: any) and the one behind it.
    """

    def __init__(self, emit: Callable[[Event], None], sides: dict[str, tuple[int, int]]) -> None:
        self._emit, self._over = emit, False
        self._began_ns = time.monotonic_ns()
        self.proxies: dict[str, Proxy] = {}
        for side, (port, target_port) in sides.items():
            self.proxies[side] = self._proxy(side if len(sides) > 1 else "", port, target_port)

    def _proxy(self, side: str, port: int, target_port: int) -> Proxy:
        proxy, tap = Proxy(target_port, port=port), Wiretap(self._emit, side=side)

        def see(link: Link, direction: Direction, data: bytes) -> None:
            if direction == "up":
                tap.feed(link, time.monotonic_ns() - self._began_ns, data)

        def end(link: Link) -> None:
            if not self._over:  # what is still open then was not ended by anybody but us
                tap.end(link, time.monotonic_ns() - self._began_ns)

        proxy.tap, proxy.on_end = see, end
        return proxy

    async def run(self, until: asyncio.Event, ready: Callable[[], None] = lambda: None) -> None:
        """Relay and record until `until` is set."""
        try:
            for proxy in self.proxies.values():
                await proxy.start()
            ready()
            await until.wait()
        finally:
            self._over = True
            for proxy in self.proxies.values():
                if proxy.port:
                    await proxy.stop()


def log_time(text: str) -> datetime:
    """Read a `tst` of mosquitto_sub, UTC where it names no zone. Raises ValueError, TypeError.

    Up to 2.0.11, which Debian has, it is local time with a Z that means nothing before its offset.
    """
    when = datetime.fromisoformat(re.sub(r"Z(?=[+-]\d{4}$)", "", text))
    return when if when.tzinfo is not None else when.replace(tzinfo=UTC)


def import_log(lines: Iterable[str], *, name: str = "log", client_level: int = 0,
               on_begin: Began = lambda when: None) -> Iterator[Event]:
    """Read a log of `mosquitto_sub -F %j` (or %J) as events. Raises RecordingError.

    on_begin: gets the time of the first line, before its event is given.
    The log has wall-clock times; one that goes back (a clock that was set) counts as no time.
    """
    began: datetime | None = None
    last_ns = 0
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            data = json.loads(line)
            when = log_time(data["tst"])
            topic, qos, payload = data["topic"], int(data["qos"]), data["payload"]
            retain = bool(data.get("retain", 0))
        except (ValueError, KeyError, TypeError) as error:
            raise RecordingError(f"{name}: line {number}: not a line of mosquitto_sub -F %j: "
                                 f"{error!r}") from error
        if began is None:
            began = when
            on_begin(when)
        last_ns = max(last_ns, round((when - began).total_seconds() * 1e6) * 1000)
        if not isinstance(payload, str):  # %J: the payload as JSON
            payload = json.dumps(payload, separators=(",", ":"), ensure_ascii=False)
        event = publish_event(last_ns, sender(topic, client_level), topic, payload.encode(),
                              qos=qos, retain=retain)
        problem = event.problem()
        if problem:
            raise RecordingError(f"{name}: line {number}: {problem}")
        yield event


def import_log_file(path: Path, *, client_level: int = 0,
                    on_begin: Began = lambda when: None) -> Iterator[Event]:
    """Read a log file; see import_log."""
    try:
        with path.open(encoding="utf-8") as file:
            yield from import_log(file, name=str(path), client_level=client_level,
                                  on_begin=on_begin)
    except (OSError, UnicodeDecodeError) as error:
        raise RecordingError(f"{path}: {error}") from error
