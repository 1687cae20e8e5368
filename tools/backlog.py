"""A long outage: many messages queued while the upstream is away, then drained.

Measures how much the gateway's memory grows and how fast, and in which order, the backlog goes
once the upstream is back. The subscriber is there before the gateway, so it sees everything.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from array import array
from functools import partial
from pathlib import Path

import click
import msgspec
import uvloop
from msgspec import Struct

from tools.contestants import Tidegate
from tools.load import Plan, Sender, Sink
from tools.mosquitto import Mosquitto
from tools.proxy import Proxy


class Outage(Struct):
    """What an outage of `messages` messages cost."""

    messages: int
    queued_per_s: float
    drained_per_s: float
    delivered: int
    duplicated: int
    reordered: int
    memory_before_mb: float
    memory_after_mb: float
    memory_peak_mb: float
    disk_mb: float


def _memory_mb(pid: int, key: str) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(key):
            return int(line.split()[1]) / 1024
    return 0.0


async def _queue(plan: Plan, messages: int, tell: bool) -> float:
    """Publish, as fast as acknowledged; returns the seconds it took."""
    loop = asyncio.get_running_loop()
    acked: array[int] = array("Q")
    per_sender = messages // plan.connections
    senders = []
    for number in range(plan.connections):
        _, sender = await loop.create_connection(
            partial(Sender, number, plan, acked, lambda: True), "127.0.0.1", plan.port)
        sender.most = per_sender
        senders.append(sender)
    await asyncio.gather(*(s.ready for s in senders))
    began_s = time.monotonic()
    for sender in senders:
        sender.fill()
    while len(acked) < messages:
        await asyncio.sleep(0.05)
        if tell and sys.stderr.isatty():
            click.echo(f"\rqueued {len(acked):,} of {messages:,}", nl=False, err=True)
    took_s = time.monotonic() - began_s
    for sender in senders:
        sender.transport.close()
    return took_s


async def _drain(sink: Sink, messages: int, tell: bool, stall_s: float) -> float:
    began_s = time.monotonic()
    while sink.count - sink.duplicated < messages:
        await asyncio.sleep(0.05)
        if tell and sys.stderr.isatty():
            click.echo(f"\rdelivered {sink.count:,} of {messages:,}", nl=False, err=True)
        if time.monotonic() - max(sink.last_s, began_s) > stall_s:
            break
    return sink.last_s - (sink.first_s or began_s)


async def measure(messages: int, qos: int = 2, payload_bytes: int = 80, tell: bool = False,
                  stall_s: float = 60.0) -> Outage:
    """Queue `messages`, let the upstream come back, wait until all have arrived."""
    with tempfile.TemporaryDirectory(prefix="tidegate-backlog-") as name:
        folder = Path(name)
        with Mosquitto(folder / "upstream", persistence=False) as upstream:
            proxy = Proxy(upstream.port)
            await proxy.start()
            proxy.refuse()
            try:
                with Tidegate(folder / "gateway", proxy.port, qos) as gateway:
                    pid = gateway.pids()[0]
                    plan = Plan(gateway.port, upstream.port, 200, 1, 50,
                                payload_bytes=payload_bytes)
                    _, sink = await asyncio.get_running_loop().create_connection(
                        lambda: Sink(plan), "127.0.0.1", upstream.port)
                    await sink.ready
                    before = _memory_mb(pid, "VmRSS")
                    messages -= messages % plan.connections
                    queue_s = await _queue(plan, messages, tell)
                    after = _memory_mb(pid, "VmRSS")
                    disk = sum(f.stat().st_size for f in gateway.folder.glob("outbox*")) / 1e6
                    proxy.refuse(False)
                    drain_s = await _drain(sink, messages, tell, stall_s)
                    return Outage(messages, messages / queue_s, sink.count / max(drain_s, 1e-9),
                                  sink.count - sink.duplicated, sink.duplicated, sink.reordered,
                                  before, after, _memory_mb(pid, "VmHWM"), disk)
            finally:
                await proxy.stop()


@click.command()
@click.option("--messages", default=1_000_000, show_default=True, help="How many to queue.")
@click.option("--qos", default=2, show_default=True, type=click.IntRange(1, 2),
              help="QoS to the upstream.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
def backlog(messages: int, qos: int, as_json: bool) -> None:
    """Queue many messages while the upstream is away, then drain them, and measure both."""
    outage = uvloop.run(measure(messages, qos, tell=not as_json))
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(outage)))
        return
    click.echo(f"\rqueued {outage.messages:,} at {outage.queued_per_s:,.0f}/s, memory "
               f"{outage.memory_before_mb:.0f} MB before, {outage.memory_after_mb:.0f} after, "
               f"{outage.memory_peak_mb:.0f} at the most, {outage.disk_mb:.0f} MB on disk\n"
               f"drained at {outage.drained_per_s:,.0f}/s: lost "
               f"{outage.messages - outage.delivered}, duplicated {outage.duplicated}, "
               f"reordered {outage.reordered}")


if __name__ == "__main__":
    backlog()
