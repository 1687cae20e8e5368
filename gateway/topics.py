"""Topic filters: matching a name against many filters at once (OASIS 3.1.1 section 4.7). Pure."""

from __future__ import annotations

from typing import Generic, TypeVar

T = TypeVar("T")
_CACHED, _TOPIC_CACHED = 8192, 256


def matches(topic_filter: str, topic: str) -> bool:
    """Tell whether a valid filter matches a valid topic name."""
    if topic[0] == "$" and topic_filter[0] in "+#":  # section 4.7.2
        return False
    levels = topic.split("/")
    parts = topic_filter.split("/")
    for i, part in enumerate(parts):
        if part == "#":
            return True
        if i >= len(levels) or (part != "+" and part != levels[i]):
            return False
    return len(parts) == len(levels)


class FilterTable(Generic[T]):
    """Values under topic filters; `find` is a dictionary look-up for a topic seen before."""

    def __init__(self) -> None:
        self.by_filter: dict[str, dict[str, T]] = {}
        self._found: dict[str, list[T]] = {}

    def __len__(self) -> int:
        return sum(map(len, self.by_filter.values()))

    def put(self, topic_filter: str, key: str, value: T) -> None:
        """Set the value that `key` has under a filter, in place of an earlier one."""
        self.by_filter.setdefault(topic_filter, {})[key] = value
        self._found.clear()

    def drop(self, topic_filter: str, key: str) -> None:
        """Take away what `key` has under a filter; nothing happens where there is nothing."""
        values = self.by_filter.get(topic_filter)
        if values is not None and values.pop(key, None) is not None:
            if not values:
                del self.by_filter[topic_filter]
            self._found.clear()

    def find(self, topic: str) -> list[T]:
        """All values whose filter matches the topic."""
        found = self._found.get(topic)
        if found is None:
            found = [value for topic_filter, values in self.by_filter.items()
                     if matches(topic_filter, topic) for value in values.values()]
            if len(self._found) >= _CACHED:
                self._found.clear()
            if len(topic) <= _TOPIC_CACHED:
                self._found[topic] = found
        return found
