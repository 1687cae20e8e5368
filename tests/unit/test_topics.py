"""gateway/topics.py against the examples of the standard and a slow second opinion."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.topics import FilterTable, matches

LEVELS = st.sampled_from(["", "a", "b", "sport", "$SYS"])
TOPICS = st.lists(LEVELS, min_size=1, max_size=4).map("/".join).filter(bool)
FILTERS = st.builds(lambda levels, more: "/".join(levels + ["#"] * more) or "#",
                    st.lists(LEVELS | st.just("+"), max_size=4), st.booleans())


def slow(topic_filter: str, topic: str) -> bool:
    """Section 4.7 as a regular expression."""
    if topic.startswith("$") and topic_filter[0] in "+#":
        return False
    pattern = "/".join("[^/]*" if level == "+" else re.escape(level)
                       for level in topic_filter.split("/"))
    pattern = ".*" if topic_filter == "#" else re.sub(r"/\\#$", "(/.*)?", pattern)
    return re.fullmatch(pattern, topic) is not None


@pytest.mark.parametrize(("topic_filter", "topic", "expected"), [
    # OASIS 3.1.1 section 4.7.1.2
    ("sport/tennis/player1/#", "sport/tennis/player1", True),
    ("sport/tennis/player1/#", "sport/tennis/player1/ranking", True),
    ("sport/tennis/player1/#", "sport/tennis/player1/score/wimbledon", True),
    ("sport/#", "sport", True),
    ("sport/#", "sports", False),
    ("#", "sport/tennis", True),
    # section 4.7.1.3
    ("sport/tennis/+", "sport/tennis/player1", True),
    ("sport/tennis/+", "sport/tennis/player1/ranking", False),
    ("sport/+", "sport", False),
    ("sport/+", "sport/", True),
    ("+", "finance", True),
    ("+", "/finance", False),
    ("+/+", "/finance", True),
    ("/+", "/finance", True),
    # section 4.7.2
    ("#", "$SYS/monitor", False),
    ("+/monitor/Clients", "$SYS/monitor/Clients", False),
    ("$SYS/#", "$SYS/monitor", True),
    ("$SYS/monitor/+", "$SYS/monitor/Clients", True),
    # section 4.7.3
    ("ACCOUNTS", "Accounts", False),
    ("a", "/a", False),
])
def test_matches_says_what_the_standard_says(topic_filter: str, topic: str,
                                             expected: bool) -> None:
    assert matches(topic_filter, topic) is expected
    assert slow(topic_filter, topic) is expected


@given(FILTERS, TOPICS)
def test_matches_agrees_with_a_slow_reference(topic_filter: str, topic: str) -> None:
    assert matches(topic_filter, topic) is slow(topic_filter, topic)


STEPS = st.lists(st.tuples(st.sampled_from(("put", "drop", "find")), FILTERS, TOPICS,
                           st.sampled_from("xyz")), max_size=30)


@given(STEPS)
def test_table_finds_what_a_list_would(steps: list[tuple[str, str, str, str]]) -> None:
    table: FilterTable[int] = FilterTable()
    model: dict[tuple[str, str], int] = {}
    for number, (what, topic_filter, topic, key) in enumerate(steps):
        if what == "put":
            table.put(topic_filter, key, number)
            model[topic_filter, key] = number
        elif what == "drop":
            table.drop(topic_filter, key)
            model.pop((topic_filter, key), None)
        expected = sorted(value for (f, _), value in model.items() if slow(f, topic))
        assert sorted(table.find(topic)) == expected
        assert len(table) == len(model)
