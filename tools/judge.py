"""The independent judge: a paho subscriber at the upstream, and a paho producer.

Neither shares a line with the gateway's protocol cores. The subscriber has a persistent session
at QoS 2, so that nothing escapes it while the upstream restarts; the producer remembers every
PUBACK it was given. What they saw goes to `tools.verdict`.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.reasoncodes import ReasonCode

from tools.arrival import Arrival, record_of
from tools.lifetime import Startable
from tools.ports import HOST
from tools.verdict import Message, Record, Verdict, judge_messages, judge_records

KEEPALIVE_S = 10
RECONNECT_S = 0.2
UNACKNOWLEDGED = -1
"""Stands for a message at QoS 0: paho calls on_publish for it, but nobody has it."""


class JudgeError(Exception):
    """The judge itself could not do its work; no verdict follows from that."""


class _Session(Startable):
    """A paho client with a session that outlives its connections, run by paho's own thread."""

    def __init__(self, port: int, client_id: str) -> None:
        self.changed = threading.Condition()
        self.connections = 0
        self._port = port
        self._client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=False,
            protocol=mqtt.MQTTv311,
        )
        self._client.reconnect_delay_set(RECONNECT_S, RECONNECT_S)  # type: ignore[arg-type]
        self._client.on_connect = self._on_connect

    def _on_connect(
        self,
        client: mqtt.Client,
        userdata: Any,
        flags: mqtt.ConnectFlags,
        reason: ReasonCode,
        properties: Any,
    ) -> None:
        if reason.is_failure:
            return
        with self.changed:
            self.connections += 1
            self.changed.notify_all()

    def start(self, timeout_s: float = 10.0) -> None:
        """Connect, waiting at most timeout_s [s] for it."""
        self._client.connect_async(HOST, self._port, keepalive=KEEPALIVE_S)
        self._client.loop_start()
        self.wait_for(lambda: self.connections > 0, timeout_s, "a connection")

    def stop(self) -> None:
        """Disconnect; the session stays with the broker."""
        self._client.disconnect()
        self._client.loop_stop()

    def wait_for(
        self, ready: Callable[[], bool], timeout_s: float, what: str = "what was expected"
    ) -> None:
        """Wait until `ready()`; raises JudgeError naming `what` after timeout_s [s]."""
        with self.changed:
            if not self.changed.wait_for(ready, timeout_s):
                raise JudgeError(f"no {what} within {timeout_s} s")


class Subscriber(_Session):
    """Keeps everything that arrives on its topic filters, in order.

    on_arrival is called for each message, on paho's thread.
    """

    def __init__(
        self,
        port: int,
        filters: Iterable[str] = ("#",),
        *,
        qos: int = 2,
        client_id: str = "judge",
        on_arrival: Callable[[Arrival], None] | None = None,
    ) -> None:
        super().__init__(port, client_id)
        self.arrivals: list[Arrival] = []
        self.subscribed = 0
        self._filters = [(topic_filter, qos) for topic_filter in filters]
        self._tell = on_arrival
        self._client.on_message = self._on_message
        self._client.on_subscribe = self._on_subscribe

    def _on_connect(
        self,
        client: mqtt.Client,
        userdata: Any,
        flags: mqtt.ConnectFlags,
        reason: ReasonCode,
        properties: Any,
    ) -> None:
        super()._on_connect(client, userdata, flags, reason, properties)
        if reason.is_failure:
            return
        if not flags.session_present:
            client.subscribe(self._filters)
        elif not self.subscribed:  # in an earlier run, which may have had other filters
            self._on_subscribe(client, userdata, 0, (), properties)

    def _on_subscribe(
        self, client: mqtt.Client, userdata: Any, mid: int, reasons: Any, properties: Any
    ) -> None:
        with self.changed:
            self.subscribed += 1
            self.changed.notify_all()

    def _on_message(self, client: mqtt.Client, userdata: Any, message: mqtt.MQTTMessage) -> None:
        arrival = Arrival(
            time.monotonic_ns(),
            message.topic,
            bytes(message.payload),
            message.qos,
            message.retain,
        )
        with self.changed:
            self.arrivals.append(arrival)
            self.changed.notify_all()
        if self._tell is not None:
            self._tell(arrival)

    def start(self, timeout_s: float = 10.0) -> None:
        """Connect and subscribe, waiting at most timeout_s [s] for either."""
        super().start(timeout_s)
        self.wait_for(lambda: self.subscribed > 0, timeout_s, "SUBACK")

    def records(self) -> list[Record]:
        """Return the names of the records that arrived, in order."""
        with self.changed:
            arrivals = list(self.arrivals)
        names = (record_of(arrival.payload) for arrival in arrivals)
        return [name for name in names if name is not None]

    def wait_for_message(self, topic: str, payload: bytes, timeout_s: float = 10.0) -> Arrival:
        """Return the first arrival with this topic and payload, waiting at most timeout_s [s]."""
        found: list[Arrival] = []

        def there() -> bool:
            found[:] = [a for a in self.arrivals if (a.topic, a.payload) == (topic, payload)]
            return bool(found)

        self.wait_for(there, timeout_s, f"{topic} {payload!r}")
        return found[0]

    def wait_for_records(self, told: Iterable[Record], timeout_s: float) -> bool:
        """Wait until all of `told` have arrived; tells whether they did within timeout_s [s]."""
        missing = set(told)
        looked_at = 0

        def complete() -> bool:
            nonlocal looked_at
            for arrival in self.arrivals[looked_at:]:
                name = record_of(arrival.payload)
                if name is not None:
                    missing.discard(name)
            looked_at = len(self.arrivals)
            return not missing

        with self.changed:
            return self.changed.wait_for(complete, timeout_s)


class Producer(_Session):
    """Publishes and remembers what was acknowledged; connects again by itself.

    At QoS 1 and 2 paho sends again what was not acknowledged when a connection ended. What is
    published while it connects again can overtake that: a stream whose order is judged waits
    for its acknowledgements before the link is cut and for the connection after it.
    """

    def __init__(self, port: int, client_id: str = "producer") -> None:
        super().__init__(port, client_id)
        self.sent: list[Message] = []
        self._by_mid: dict[int, int] = {}
        self._early: set[int] = set()
        self._owed: set[int] = set()
        self._asked = 0
        self._client.max_inflight_messages_set(200)
        self._client.on_publish = self._on_publish

    def _on_publish(
        self, client: mqtt.Client, userdata: Any, mid: int, reason: Any, properties: Any
    ) -> None:
        with self.changed:
            if mid in self._by_mid:
                self._acknowledge(self._by_mid.pop(mid))
            else:
                self._early.add(mid)  # before publish() returned
            self.changed.notify_all()

    def _acknowledge(self, index: int) -> None:
        if index != UNACKNOWLEDGED:
            self._owed.add(index)

    def publish(self, topic: str, payload: bytes, *, qos: int = 1) -> None:
        """Publish one message, without waiting for its acknowledgement."""
        # without the lock: paho holds one of its own while it calls _on_publish
        info = self._client.publish(topic, payload, qos=qos)
        with self.changed:
            index = len(self.sent) if qos > 0 else UNACKNOWLEDGED
            self.sent.append(Message(topic, payload))
            self._asked += qos > 0
            if info.mid in self._early:
                self._early.discard(info.mid)
                self._acknowledge(index)
            else:
                self._by_mid[info.mid] = index

    @property
    def acknowledged(self) -> int:
        """How many messages were acknowledged."""
        with self.changed:
            return len(self._owed)

    def wait_for_acknowledgements(self, timeout_s: float = 10.0) -> None:
        """Wait until all of QoS 1 and 2 was acknowledged; raises JudgeError otherwise."""
        self.wait_for(
            lambda: len(self._owed) == self._asked, timeout_s, "acknowledgement of everything"
        )

    def ledger(self) -> list[tuple[Message, bool]]:
        """Return every message sent, in order, and whether it was acknowledged."""
        with self.changed:
            return [(message, index in self._owed) for index, message in enumerate(self.sent)]


def verdict_of_records(told: Iterable[Record], subscriber: Subscriber) -> Verdict:
    """Judge our devices' records: told by their consoles, arrived at the subscriber."""
    return judge_records(told, subscriber.records())


def verdict_of_messages(
    producers: Iterable[Producer],
    subscriber: Subscriber,
    *,
    upstream_topic: Callable[[str], str] = lambda topic: topic,
) -> Verdict:
    """Judge foreign traffic by content, topic by topic.

    upstream_topic: how the gateway's route renames a topic. Only topics that a producer sent to
    are judged.
    """
    sent: dict[str, list[tuple[Message, bool]]] = defaultdict(list)
    for producer in producers:
        for message, owed in producer.ledger():
            topic = upstream_topic(message.topic)
            sent[topic].append((Message(topic, message.payload), owed))
    arrived: dict[str, list[Message]] = defaultdict(list)
    with subscriber.changed:
        for arrival in subscriber.arrivals:
            if arrival.topic in sent:
                arrived[arrival.topic].append(arrival.message)
    return judge_messages(sent, arrived)
