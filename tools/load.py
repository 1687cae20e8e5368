"""A load generator for the bench: many connections that each wait for their PUBACK, or one busy
one, and a subscriber at the other end that takes the time of every message.

It shares no code with the gateway: its few packets are made by hand. A message's payload starts
with the connection (2 bytes), its number (4 bytes) and the time it was sent (8 bytes, ns,
monotonic), so one process can count what was lost, doubled, or out of order, and how late it was.
"""

from __future__ import annotations

import asyncio
import json
import struct
import sys
import time
from array import array
from collections.abc import Callable
from functools import partial
from typing import cast

from msgspec import Struct

_HEAD = struct.Struct(">HIQ")


class Plan(Struct):
    """What to send. rate_per_s: of all connections together, 0 for as fast as acknowledged.
    window: unacknowledged messages a connection may have."""

    port: int
    upstream_port: int
    connections: int = 200
    qos: int = 1
    window: int = 1
    seconds: float = 5.0
    rate_per_s: float = 0.0
    payload_bytes: int = 80
    topic: str = "bench"
    upstream_topic: str = "bench"
    settle_s: float = 15.0


class Result(Struct):
    """What came of it. Latencies are from send to arrival at the upstream's subscriber [ms]."""

    sent: int
    acked: int
    delivered: int
    duplicated: int
    reordered: int
    seconds: float
    sent_per_s: float
    delivered_per_s: float
    p50_ms: float
    p99_ms: float
    ack_p50_ms: float
    ack_p99_ms: float
    cpu_share: float  # of one core, that this process used
    wedged: bool


def _connect(client_id: str) -> bytes:
    name = client_id.encode()
    body = b"\0\4MQTT\4\2\0\0" + len(name).to_bytes(2, "big") + name
    return bytes((0x10, len(body))) + body


class Sender(asyncio.Protocol):
    """One connection that publishes."""

    def __init__(self, number: int, plan: Plan, acked: array[int], go: Callable[[], bool]) -> None:
        self.number, self.plan, self.acked, self._go = number, plan, acked, go
        self.sent = self.in_flight = 0
        self.most = 1 << 62  # messages to send at all
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        topic = f"{plan.topic}/{number}".encode()
        length = 2 + len(topic) + (2 if plan.qos else 0) + plan.payload_bytes
        size = bytes((length,)) if length < 128 else bytes((length & 127 | 128, length >> 7))
        self._head = bytes((0x30 | plan.qos << 1,)) + size + len(topic).to_bytes(2, "big") + topic
        self._pad = bytes(plan.payload_bytes - _HEAD.size)
        self._rest = b""
        self._times: dict[int, int] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.write(_connect(f"load-{self.plan.topic}-{self.number}"))
        self.write = self.transport.write

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        if not self.ready.done():
            self.ready.set_result(None)
            data = data[4:]
        now = time.perf_counter_ns()
        usable = len(data) & ~3
        for head, mid in struct.iter_unpack(">HH", data[:usable]):
            if head == 0x4002:
                self.in_flight -= 1
                self.acked.append(now - self._times.pop(mid))
        self._rest = data[usable:]
        if self.plan.rate_per_s == 0:
            self.fill()

    def fill(self) -> None:
        """Send up to the window."""
        count = min(self.plan.window - self.in_flight, self.most - self.sent)
        if count > 0 and self._go():
            self.write(b"".join([self.one() for _ in range(count)]))

    def one(self) -> bytes:
        """The next message."""
        self.sent += 1
        now = time.perf_counter_ns()
        mid = b""
        if self.plan.qos:
            number = self.sent % 65535 + 1
            self._times[number] = now
            mid = number.to_bytes(2, "big")
            self.in_flight += 1
        return self._head + mid + _HEAD.pack(self.number, self.sent, now) + self._pad


class Sink(asyncio.Protocol):
    """The subscriber at the upstream (QoS 0: it only looks)."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.count = self.duplicated = self.reordered = 0
        self.last = [0] * plan.connections
        self.late = array("Q")
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._rest = b""
        self.last_s = time.monotonic()
        self.first_s = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        topic = f"{self.plan.upstream_topic}/#".encode()
        subscribe = b"\0\1" + len(topic).to_bytes(2, "big") + topic + b"\0"
        cast(asyncio.Transport, transport).write(
            _connect("load-sink") + bytes((0x82, len(subscribe))) + subscribe)

    def data_received(self, data: bytes) -> None:
        data = self._rest + data
        pos, size = 0, len(data)
        now = time.perf_counter_ns()
        last, late = self.last, self.late
        while size - pos >= 2:
            length, body = data[pos + 1], pos + 2
            if length > 127:
                if size - pos < 3:
                    break
                length, body = (length & 127) | data[pos + 2] << 7, pos + 3
            end = body + length
            if end > size:
                break
            if data[pos] >> 4 == 3:
                at = body + 2 + (data[body] << 8 | data[body + 1])
                conn, number, sent = _HEAD.unpack_from(data, at)
                late.append(now - sent)
                self.count += 1
                if number == last[conn] + 1:
                    last[conn] = number
                elif number <= last[conn]:
                    self.duplicated += 1
                else:
                    self.reordered += 1
                    last[conn] = number
            elif data[pos] == 0x90:
                self.ready.set_result(None)
            pos = end
        self._rest = data[pos:]
        self.last_s = time.monotonic()
        if self.count and not self.first_s:
            self.first_s = self.last_s


def _percentile(values: array[int], share: float) -> float:
    if not values:
        return 0.0
    return sorted(values)[min(len(values) - 1, int(len(values) * share))] / 1e6


async def run(plan: Plan) -> Result:
    """Send for plan.seconds, then wait until everything has arrived or nothing more comes."""
    loop = asyncio.get_running_loop()
    acked: array[int] = array("Q")
    stop_s = float("inf")
    sink_transport, sink = await loop.create_connection(lambda: Sink(plan), "127.0.0.1",
                                                        plan.upstream_port)
    await asyncio.wait_for(sink.ready, 10)
    senders: list[Sender] = []
    for number in range(plan.connections):
        _, sender = await loop.create_connection(
            partial(Sender, number, plan, acked, lambda: time.monotonic() < stop_s),
            "127.0.0.1", plan.port)
        senders.append(sender)
    await asyncio.wait_for(asyncio.gather(*(s.ready for s in senders)), 10)
    began_s, cpu_s = time.monotonic(), time.process_time()
    stop_s = began_s + plan.seconds
    if plan.rate_per_s:
        await _paced(plan, senders, began_s, stop_s)
    else:
        for sender in senders:
            sender.fill()
        if plan.qos == 0:
            await _flood(senders, stop_s)
        await asyncio.sleep(max(0.0, stop_s - time.monotonic()))
    used = (time.process_time() - cpu_s) / (time.monotonic() - began_s)
    sent_s = time.monotonic() - began_s
    while sink.count - sink.duplicated < (sent := sum(s.sent for s in senders)) \
            and time.monotonic() - max(sink.last_s, stop_s) < plan.settle_s:
        await asyncio.sleep(0.02)
    took_s = max(sink.last_s, stop_s) - began_s
    sink_transport.close()
    for sender in senders:
        sender.transport.close()
    unique = sink.count - sink.duplicated
    return Result(
        sent=sent, acked=len(acked), delivered=unique, duplicated=sink.duplicated,
        reordered=sink.reordered, seconds=took_s, sent_per_s=sent / sent_s,
        delivered_per_s=unique / took_s, p50_ms=_percentile(sink.late, 0.5),
        p99_ms=_percentile(sink.late, 0.99), ack_p50_ms=_percentile(acked, 0.5),
        ack_p99_ms=_percentile(acked, 0.99), cpu_share=used, wedged=unique < sent)


async def _paced(plan: Plan, senders: list[Sender], began_s: float, stop_s: float) -> None:
    """Each message at its own time, whatever became of those before it."""
    number = 0
    while True:
        due_s = began_s + number / plan.rate_per_s
        if due_s >= stop_s:
            return
        wait_s = due_s - time.monotonic()
        if wait_s > 0:
            await asyncio.sleep(wait_s)
        sender = senders[number % len(senders)]
        sender.write(sender.one())
        number += 1


async def _flood(senders: list[Sender], stop_s: float) -> None:
    """QoS 0, as fast as the socket takes it."""
    for sender in senders:
        sender.transport.set_write_buffer_limits(high=262_144)
    while time.monotonic() < stop_s:
        for sender in senders:
            size = sender.transport.get_write_buffer_size()
            if size < 131_072:
                sender.write(b"".join([sender.one() for _ in range(64)]))
        await asyncio.sleep(0)


def main() -> None:
    """Read a Plan as JSON on standard input, print the Result as JSON."""
    import msgspec
    import uvloop

    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)
    result = uvloop.run(run(plan))
    json.dump(msgspec.to_builtins(result), sys.stdout)


if __name__ == "__main__":
    main()
