"""The traffic of a scenario: made up, each message of its own content, or a recording."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from tools.hil.recording import Event, Will, publish_event, read
from tools.hil.scenario import Traffic


def topic_of(client: str) -> str:
    """Return where a made-up client publishes."""
    return f"hil/{client}/data"


def will_of(client: str) -> Will:
    """Return a made-up client's will."""
    return Will(topic=f"hil/{client}/will", text="gone", qos=1)


def clients(traffic: Traffic) -> list[str]:
    """Return the identifiers of made-up clients."""
    return [f"{traffic.name}-{number}" for number in range(traffic.clients)]


def events(traffic: Traffic, seconds: float, folder: Path) -> Iterator[Event]:
    """Give the events of `seconds` [s] of traffic, in order.

    Clients take turns. A session is kept over connections, so that QoS 2 can be exact.
    """
    if traffic.recording:
        limit_ns = seconds * traffic.speed * 1e9
        for event in read(folder / traffic.recording):
            if event.t > limit_ns:
                return
            yield event
        return
    names = clients(traffic)
    for name in names:
        yield Event(t=0, e="connect", c=name, clean=False, keepalive_s=5,
                    will=will_of(name) if traffic.will else None)
    rate = traffic.rate_per_s
    count = traffic.messages if not rate else int(seconds * rate)
    for number in range(count):
        name = names[number % len(names)]
        payload = f"{name} {number // len(names)} ".encode().ljust(traffic.payload_bytes, b".")
        yield publish_event(int(number / rate * 1e9) if rate else 0, name, topic_of(name),
                            payload, qos=traffic.qos, retain=traffic.retain)
