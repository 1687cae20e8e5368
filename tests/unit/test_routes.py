"""gateway/routes.py: the first route that matches, and what it makes of a topic."""

from __future__ import annotations

import pytest

from gateway.routes import LIVE, URGENT, Route, Router


def test_first_matching_route_wins() -> None:
    router = Router([Route(filter="a/+", to="first", upgrade=1), Route(filter="#", to="second")])
    found, other = router.find("a/b"), router.find("a/b/c")
    assert found is not None
    assert other is not None
    assert (found.topic, found.min_qos, found.index) == ("first", 1, 0)
    assert (other.topic, other.min_qos, other.index) == ("second", 2, 1)


def test_topic_that_no_route_forwards_has_no_target() -> None:
    router = Router([Route(filter="private/#", forward=False), Route(filter="a/#")])
    assert router.find("private/x") is None
    assert router.find("elsewhere") is None
    assert router.find("private/x") is None  # from memory as well


def test_prefix_and_placeholder_make_the_upstream_topic() -> None:
    router = Router([Route(to="site/{topic}/in")], prefix="org/")
    target = router.find("a/b")
    assert target is not None
    assert target.topic == "org/site/a/b/in"
    assert target.wire_topic == b"\x00\x0forg/site/a/b/in"


def test_records_are_shown_as_their_own_topic_under_the_batch_s_route() -> None:
    router = Router([Route(filter="tidegate/+/up", upgrade=1), Route()])
    shown = router.find("tidegate/x/up", "tidegate/x/data/air")
    batch = router.find("tidegate/x/up")
    assert shown is not None
    assert batch is not None
    assert (shown.topic, shown.min_qos) == ("tidegate/x/data/air", 1)
    assert (batch.topic, batch.min_qos) == ("tidegate/x/up", 1)


def test_urgent_route_has_the_urgent_lane() -> None:
    router = Router([Route(filter="alarm/#", urgent=True), Route()])
    lanes = [target.lane for topic in ("alarm/a", "b") if (target := router.find(topic))]
    assert lanes == [URGENT, LIVE]


def test_own_status_is_urgent_and_only_its_latest_counts() -> None:
    target = Router.own("tidegate/gateway/x/status")
    assert (target.lane, target.route.full, target.index) == (URGENT, "latest-only", -1)


@pytest.mark.parametrize(("route", "key"), [
    (Route(filter="a#"), "filter"), (Route(filter=""), "filter"), (Route(filter="#/a"), "filter"),
    (Route(to=""), "to"), (Route(to="a/+"), "to"), (Route(to="a\x00"), "to"),
    (Route(to="x" * 1001), "to"), (Route(to="{topic}" * 9), "to"),
    (Route(keep_s=-1), "keep_s"), (Route(keep_s=float("nan")), "keep_s")])
def test_problem_names_the_key_in_one_line(route: Route, key: str) -> None:
    problem = route.problem()
    assert problem is not None
    assert problem.startswith(f"{key}: ")
    assert "\n" not in problem


def test_problem_of_a_good_route_is_none() -> None:
    assert Route().problem() is None


def test_longest_topics_that_the_rules_allow_fit_a_packet() -> None:
    route = Route(to="{topic}" * 8 + "x" * 900)
    assert route.problem() is None
    assert Router([route], prefix="p" * 1000).find("t" * 4096) is not None
