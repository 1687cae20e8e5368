"""How the gateway is, as data: for `tidegate status` and its sisters, and for the metrics."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gateway.health import risks, same_id
from gateway.outbox_view import Summary, page

if TYPE_CHECKING:
    from gateway.bridge import Bridge


def status_of(bridge: Bridge) -> dict[str, Any]:
    """What a person or a script wants to know."""
    door = bridge.door
    broker = None if bridge.local_broker is None else bridge.local_broker.link
    return {
        "id": bridge.config.id, "port": bridge.port, "tls_port": bridge.listener.tls_port,
        "upstream": bridge.upstream.state,
        "same_id": same_id(bridge), "moved": bridge.moved,
        "connected_devices": len(bridge.clients),
        "depth": bridge.queue.depth - bridge.committer.done,
        "bytes": bridge.queue.used_bytes,
        # a disk with less room is the limit before `max_size` is
        "max_bytes": min(bridge.queue.max_bytes,
                         bridge.queue.used_bytes + bridge.outbox.spare.room_bytes()),
        "oldest_s": _oldest_s(bridge), "in_flight": len(bridge.flight.in_flight),
        "refused": bridge.queue.refused, "delivered": bridge.leaving.delivered,
        "commits": bridge.committer.commits,
        "payload_bytes": bridge.committer.payload_bytes, "written_bytes": written_bytes(),
        "longest_commit_ms": round(bridge.committer.longest_ms, 1),
        "disk": bridge.committer.failing or "ok",
        "at_risk": risks(bridge),
        "upstream_connects": bridge.upstream.connects,
        "upstream_notices": list(bridge.drain.trouble.notices.values()),
        "after_lost_session": dict(bridge.drain.lost_session.counts),
        "releases_given_up": bridge.drain.trouble.counts["releases given up"],
        "broker": None if broker is None else broker.state,
        "broker_connects": 0 if broker is None else broker.connects,
        "counts": dict(bridge.counts), "dropped": dict(bridge.queue.dropped),
        "closed": dict(bridge.listener.refused),
        "logins": {} if door is None else dict(door.counts)}


def written_bytes() -> int:
    """Bytes that this process has made the disk write; 0 where the kernel does not say."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("write_bytes:")), 0)


def _oldest_s(bridge: Bridge) -> int:
    """Age of the oldest message in memory; what is only on disk came after those, save for the
    time between a restart and the next connection."""
    ages = [entry.age_s for entry in bridge.flight.in_flight.values()]
    ages += [lane[0].age_s for lane in bridge.flight.queues() if lane]
    return max(0, bridge.outbox.clock_s() - min(ages)) if ages else 0


def devices_of(bridge: Bridge) -> dict[str, Any]:
    """Everybody who is connected."""
    now_s = time.monotonic()
    rows = []
    for conn in bridge.listener.connections:
        if conn.session is None:
            continue
        rows.append({
            "client": conn.session.client_id,
            "name": conn.permit.name if conn.permit is not None else None, "peer": conn.peer,
            "connected_s": round(now_s - conn.since_s), "silent_s": round(now_s - conn.heard_s, 1),
            "held": len(conn.held), "subscriptions": sorted(conn.session.filters),
            "dropped": conn.session.dropped})
    return {"devices": sorted(rows, key=lambda row: str(row["client"]))}


async def answer(bridge: Bridge, asked: str) -> dict[str, Any]:
    """What the control socket says. Raises ValueError where it does not know the word."""
    word, _, rest = asked.partition(" ")
    if word in ("", "status"):
        return status_of(bridge)
    if word == "devices":
        return devices_of(bridge)
    if word == "outbox":
        found = Summary()
        while await bridge.committer.read(lambda: found.step(bridge.outbox.reader())):
            pass
        return found.result(bridge.outbox.clock_s())
    if word == "rows":
        return await bridge.committer.read(lambda: page(bridge.outbox.reader(), int(rest)))
    raise ValueError(asked)
