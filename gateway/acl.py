"""What a client may publish and subscribe, in rules one can read. Pure.

    [[allow]]
    who = "dashboard"            # a name of the credentials file, "*" for each, "anonymous"
    subscribe = ["#"]
    publish = ["house/{name}/#"]

Every device may use `tidegate/<its name>/#` without being told. Each `[[allow]]` that names it
adds to that; nothing takes away. `{name}` stands for the name it logged in with. Who logs in with
no name (`allow_anonymous`) has only what `who = "anonymous"` allows.
"""

from __future__ import annotations

from msgspec import Struct, field

from gateway.topics import matches
from gateway.wire import check_filter

ANONYMOUS = ""
_CACHED, _TOPIC_CACHED = 256, 256


class Allow(Struct, frozen=True, forbid_unknown_fields=True):
    """One `[[allow]]`. publish, subscribe: topic filters."""

    who: str
    publish: list[str] = field(default_factory=list)
    subscribe: list[str] = field(default_factory=list)

    def problem(self) -> str | None:
        """What is wrong with the values; None where they can be used."""
        if not self.who:
            return "who: '': write a device's name, '*' or 'anonymous'"
        for key in ("publish", "subscribe"):
            for topic_filter in getattr(self, key):
                try:
                    check_filter(topic_filter.encode())
                except ValueError as error:
                    return f"{key}: {error}"
        return None


class Permit:
    """What one client may do. Topics it was allowed before cost one look into a set."""

    def __init__(self, name: str, rules: list[Allow]) -> None:
        self.name = name
        self.known: set[str] = set()  # topics it may publish; for the hot path
        own = [f"tidegate/{name}/#"] if name else []
        mine = [rule for rule in rules
                if rule.who == (name or "anonymous") or (rule.who == "*" and name)]
        self._publish = own + _filled(name, [f for rule in mine for f in rule.publish])
        self._subscribe = own + _filled(name, [f for rule in mine for f in rule.subscribe])

    def may_publish(self, topic: str) -> bool:
        """Whether it may publish there."""
        if topic in self.known:
            return True
        if not any(matches(allowed, topic) for allowed in self._publish):
            return False
        if len(self.known) >= _CACHED:
            self.known.clear()
        if len(topic) <= _TOPIC_CACHED:
            self.known.add(topic)
        return True

    def may_subscribe(self, topic_filter: str) -> bool:
        """Whether everything that a filter matches is allowed."""
        return any(covers(allowed, topic_filter) for allowed in self._subscribe)


def _filled(name: str, filters: list[str]) -> list[str]:
    return [f.replace("{name}", name) for f in filters]


def covers(allowed: str, topic_filter: str) -> bool:
    """Whether every topic that `topic_filter` matches is matched by `allowed` too."""
    if topic_filter[0] == "$" and allowed[0] in "+#":  # section 4.7.2
        return False
    theirs, ours = topic_filter.split("/"), allowed.split("/")
    for i, level in enumerate(ours):
        if level == "#":
            return True
        if i >= len(theirs) or theirs[i] == "#":
            return False
        if level != "+" and level != theirs[i]:
            return False
    return len(ours) == len(theirs)
