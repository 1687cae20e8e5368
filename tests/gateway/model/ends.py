"""What holds when a run has come to rest: the accounts, and what the broker got."""

from __future__ import annotations

import json
from collections import Counter

from gateway.batch import LANE_SHIFT, ROW_OVERHEAD_BYTES, Row
from gateway.routes import REFUSED
from gateway.wire import Publish
from model.rules import hold
from model.world import World

DROPPING = "ldk"  # first letters of topics whose routes drop messages, see house.py
DATA = "tidegate/a/data"


def check(world: World) -> None:
    """Raises BrokenError."""
    rows = world.outbox.rows()
    aside = [row for row in rows if row[0] >> LANE_SHIFT == REFUSED]
    _accounts(world, rows, aside)
    _once(world)
    _order(world)
    _nothing_lost(world, aside)
    _contract(world, aside)


def _accounts(world: World, rows: list[Row], aside: list[Row]) -> None:
    stored, flying = world.bridge.queue, world.bridge.flight
    left = [row for row in rows if row not in aside]
    hold(not left, f"left on the disk though delivered: {left}, in flight {flying.in_flight}, "
                   f"queued {flying.lanes}, backlog {stored.backlog}")
    hold(stored.depth == len(aside), f"depth {stored.depth}, on disk {len(aside)}")
    hold(stored.refused == len(aside), f"set aside {stored.refused}, on disk {len(aside)}")
    used = sum(sum(map(len, row[5:9])) + ROW_OVERHEAD_BYTES for row in rows)
    hold(stored.used_bytes == used, f"bytes {stored.used_bytes}, on disk {used}")
    hold(stored._live == [0, 0] and stored._live_bytes == [0, 0],
         f"live {stored._live} of {stored._live_bytes} bytes, on disk none")
    hold(not stored.unloaded and not stored.backlog and not stored.loaded_bytes,
         f"backlog {stored.backlog}, unloaded {stored.unloaded}, loaded {stored.loaded_bytes} "
         "bytes, on disk none")
    hold(not flying.in_flight and not flying.queued(), f"still in flight {flying.in_flight}")
    kept = len(stored._room) + sum(row[1] > 0 for row in aside)
    taken = len(flying.mids.taken)
    hold(taken == kept, f"packet identifiers leaked: {taken - kept}")
    hold(not world.bridge.drain._behind, f"waiting for the disk {world.bridge.drain._behind}")


def _once(world: World) -> None:
    """QoS 2 comes once while the broker keeps its session."""
    times = Counter((session, p.payload) for session, p in world.broker.delivered
                    if p.qos == 2 and _of_device(p))
    twice = [what for what, count in times.items() if count > 1]
    hold(not twice, f"QoS 2 twice in one session: {twice}")


def _order(world: World) -> None:
    """What a source sent comes in its order, each at its first arrival; what is urgent is a
    source of its own. After a crash what has a packet identifier goes first, so QoS 0 is not
    judged then, and not what the broker refused or a policy dropped in between."""
    last: Counter[tuple[str, bool, int]] = Counter()
    seen: set[tuple[str, int]] = set()
    refused = {_number(payload) for payload in world.broker.refused}
    refused |= {_number(payload) for payload in world.waited | world.broker.put_off
                if payload[:2] in (b"a:", b"b:", b"c:")}
    for p in _delivered(world):
        name, number = _number(p.payload)
        first = (name, number) not in seen
        seen.add((name, number))
        if not first or (name, number) in refused or p.topic[0] in DROPPING \
                or (p.qos == 0 and world.options.crash):
            continue
        # With the PUBREL, QoS 2 comes later than QoS 1 that was sent behind it.
        source = name, p.topic[0] == "u", p.qos * world.options.late
        hold(number > last[source], f"out of order: {p} after {last[source]}")
        last[source] = number


def _nothing_lost(world: World, aside: list[Row]) -> None:
    there = {_number(p.payload) for p in _delivered(world)}
    there.update(_number(row[8]) for row in aside if row[8][:2] in (b"a:", b"b:", b"c:"))
    full = _no_room(world)
    for device in world.devices:
        hold(full or not device.unacked, f"never acknowledged: {device.name} {device.unacked}")
        lost = [p for p in device.acked
                if p.topic[0] not in DROPPING and _number(p.payload) not in there]
        hold(not lost, f"acknowledged and lost: {lost}")


def _no_room(world: World) -> bool:
    """Whether what was set aside leaves no room for what a device has to send."""
    return any(world.bridge.queue.full(_size(world, device.name, device.peer.held[0]))
               for device in world.devices if device.peer is not None and device.peer.held)


def _size(world: World, source: str, publish: Publish) -> int:
    target = world.bridge.router.find(publish.topic)
    assert target is not None
    texts = source, target.topic, target.route.filter, "!" * target.route.urgent
    return len(publish.payload) + sum(map(len, texts)) + ROW_OVERHEAD_BYTES


def _contract(world: World, aside: list[Row]) -> None:
    numbers = [json.loads(p.payload)["seq"] for _, p in world.broker.delivered
               if p.topic.startswith(DATA)]
    first = list(dict.fromkeys(numbers))
    hold(first == sorted(first) or world.options.refuse, f"records out of order: {first}")
    aside_too = {json.loads(row[8])["seq"] for row in aside if row[7].startswith(DATA)}
    lost = set(range(1, world.records.have + 1)) - set(first) - aside_too
    hold(not lost, f"records acknowledged and lost: {lost}")


def _delivered(world: World) -> list[Publish]:
    return [p for _, p in world.broker.delivered if _of_device(p)]


def _of_device(p: Publish) -> bool:
    return not p.topic.startswith("tidegate/")


def _number(payload: bytes) -> tuple[str, int]:
    name, number = payload.split(b":")[:2]
    return name.decode(), int(number)
