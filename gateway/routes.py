"""Routes: which upstream topic a message goes to, at which QoS, in what form. Pure.

A route is one `[[route]]` table of the config; the first whose filter matches a topic takes it.
To add a setting of a route: a field here, with its default, is all it needs.
"""

from __future__ import annotations

import re
from typing import Literal

from msgspec import Struct

from gateway.topics import matches
from gateway.wire import check_filter, check_topic, encode_text

_CACHED, _KEY_CACHED = 8192, 256
_TO_MOST_BYTES = 1000  # of `to`; with MQTT's 65535 and the listener's longest topic it fits

# Lanes of the outbox, in the order they are drained.
URGENT, LIVE, BACKLOG, REFUSED = range(4)


class Route(Struct, frozen=True, forbid_unknown_fields=True):
    """One `[[route]]`.

    filter: MQTT topic filter. to: upstream topic; `{topic}` stands for the topic as it came.
    upgrade: 0 keeps the sender's QoS, 1 or 2 is the least QoS that goes upstream.
    retain: as it came, always or never. format: what the contract's batches become.
    full: what to do when the outbox is full. keep_s: how long a message is worth keeping [s];
    0 for ever. urgent: ahead of everything else.
    forward: false keeps matching messages in the house.
    """

    filter: str = "#"
    to: str = "{topic}"
    upgrade: Literal[0, 1, 2] = 2
    retain: Literal["as-is", "always", "never"] = "as-is"
    format: Literal["records", "bytes"] = "records"
    full: Literal["reject", "drop-oldest", "latest-only"] = "reject"
    keep_s: float = 0
    urgent: bool = False
    forward: bool = True

    def problem(self) -> str | None:
        """What is wrong with the values, in one line; None where they can be used."""
        try:
            check_filter(self.filter.encode())
        except ValueError as error:
            return f"filter: {error}"
        if not self.to or "+" in self.to or "#" in self.to:
            return f"to: {self.to!r} is not a topic; {{topic}} is the topic as it came"
        for name in re.findall(r"\{\w+\}", self.to.replace("{topic}", "")):
            return f"to: {name}: only {{topic}} can stand here, the topic as it came"
        if len(self.to.encode()) > _TO_MOST_BYTES or self.to.count("{topic}") > 8:
            return f"to: at most {_TO_MOST_BYTES} bytes and 8 times {{topic}}"
        try:
            check_topic(self.to.encode())
        except ValueError as error:
            return f"to: {error}"
        if not self.keep_s >= 0:
            return f"keep_s: {self.keep_s}: at least 0, which keeps for ever"
        return None


class Target(Struct, frozen=True, gc=False):
    """Where one topic goes: a route applied to it. `wire_topic` is ready for a PUBLISH packet."""

    topic: str
    wire_topic: bytes
    route: Route
    index: int  # of the route in the config
    min_qos: int
    lane: int


class Router:
    """Finds the target of a topic; remembers those it has seen."""

    def __init__(self, routes: list[Route], prefix: str = "") -> None:
        self.routes = routes
        self._prefix = prefix
        self._targets: dict[str, Target | None] = {}

    def find(self, topic: str, shown_as: str | None = None) -> Target | None:
        """The target for messages on a topic; None where no route forwards it.

        shown_as: the topic that `{topic}` stands for, where it is not the topic itself (the
        records of a contract batch).
        """
        key = topic if shown_as is None else f"{topic}\0{shown_as}"
        try:
            return self._targets[key]
        except KeyError:
            pass
        if len(self._targets) >= _CACHED:
            self._targets.clear()
        target = None
        for index, route in enumerate(self.routes):
            if matches(route.filter, topic):
                if route.forward:
                    name = self._prefix + route.to.replace("{topic}", shown_as or topic)
                    target = Target(name, encode_text(name), route, index, route.upgrade,
                                    URGENT if route.urgent else LIVE)
                break
        if len(key) <= _KEY_CACHED:
            self._targets[key] = target
        return target

    @staticmethod
    def own(topic: str) -> Target:
        """The target for what the gateway itself has to say: urgent, the latest counts."""
        route = Route(filter=topic, full="latest-only", urgent=True)
        return Target(topic, encode_text(topic), route, -1, 1, URGENT)
