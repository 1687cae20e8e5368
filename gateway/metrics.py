"""Prometheus metrics from the gateway's status. The only file that imports prometheus_client."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

from gateway.health import Health

CONTENT_TYPE = CONTENT_TYPE_LATEST
# Metric → key of the status, help.
GAUGES = {
    "outbox_depth": ("depth", "Messages on disk that the upstream does not have yet"),
    "outbox_bytes": ("bytes", "Bytes that count against the outbox's cap"),
    "outbox_max_bytes": ("max_bytes", "The outbox's cap"),
    "outbox_oldest_seconds": ("oldest_s", "Age of the oldest message in memory, 0 for none"),
    "in_flight": ("in_flight", "Messages sent upstream and not yet acknowledged"),
    "refused_messages": ("refused", "Messages set aside, which the upstream does not take"),
    "devices_connected": ("connected_devices", "Clients that are connected"),
    "commit_longest_ms": ("longest_commit_ms", "The longest commit since the start"),
}
COUNTERS = {
    "delivered": ("delivered", "Messages that the upstream has acknowledged"),
    "commits": ("commits", "Writes to the disk that were waited for"),
    "payload_bytes": ("payload_bytes", "Payload put on the disk"),
    "disk_written_bytes": ("written_bytes", "Bytes written to the disk, whole pages"),
    "upstream_connects": ("upstream_connects", "Times that the upstream link came up"),
    "releases_given_up": ("releases_given_up",
                          "PUBRELs over which the upstream closes, of messages that it has"),
}
LABELLED = {
    "events": ("counts", "What came in, by kind: received, stored, duplicates, unreadable, …"),
    "after_lost_session": ("after_lost_session",
                           "Messages whose PUBREC came from a session that was then lost"),
    "dropped": ("dropped", "Messages dropped by a rule of their route, by reason"),
    "connections_closed": ("closed", "Connections closed for what the peer did, by reason"),
    "logins": ("logins", "Logins, by outcome"),
}


class _Status:
    """A collector over one status."""

    def __init__(self, status: dict[str, Any], health: Health) -> None:
        self._status, self._health = status, health

    def collect(self) -> Iterator[Metric]:
        """What Prometheus reads."""
        status = self._status
        for name, (key, text) in GAUGES.items():
            yield GaugeMetricFamily(f"tidegate_{name}", text, value=status[key])
        for name, (key, text) in COUNTERS.items():
            yield CounterMetricFamily(f"tidegate_{name}", text, value=status[key])
        for name, (key, text) in LABELLED.items():
            family = CounterMetricFamily(f"tidegate_{name}", text, labels=["reason"])
            for reason, count in status[key].items():
                family.add_metric([reason], count)
            yield family
        yield GaugeMetricFamily("tidegate_upstream_connected", "1 while the link is up",
                                value=status["upstream"] == "connected")
        if status["broker"] is not None:
            yield GaugeMetricFamily("tidegate_broker_connected", "1 while [broker]'s link is up",
                                    value=status["broker"] == "connected")
        yield GaugeMetricFamily("tidegate_upstream_notices",
                                "What `tidegate status` has to say of the upstream",
                                value=len(status["upstream_notices"]))
        yield GaugeMetricFamily("tidegate_disk_ok", "0 while commits fail",
                                value=status["disk"] == "ok")
        yield GaugeMetricFamily("tidegate_at_risk", "Reasons why /readyz fails",
                                value=len(self._health.at_risk()))


def render(status: dict[str, Any], health: Health) -> bytes:
    """The text of /metrics."""
    registry = CollectorRegistry()
    registry.register(_Status(status, health))
    ProcessCollector(pid=os.getpid, registry=registry)
    return generate_latest(registry)
