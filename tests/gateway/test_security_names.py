"""Credentials, rules and the throttle: what is pure of the door."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway.acl import Allow, Permit, covers
from gateway.credentials import (
    REVOKED,
    Credential,
    Memory,
    hash_password,
    new_password,
    parse,
    render,
    right,
)
from gateway.errors import CredentialsError
from gateway.throttle import CALM_S, FIRST_S, MOST_S, Throttle
from gateway.topics import matches

HASH = hash_password(b"secret-one", 10)


def test_hash_is_right_for_its_password_alone() -> None:
    assert right(HASH, b"secret-one")
    assert not right(HASH, b"secret-two")
    assert hash_password(b"secret-one", 10) != HASH
    assert not right(REVOKED, b"revoked")
    assert not right("certificate", b"")


def test_password_made_for_a_device_has_128_bits() -> None:
    assert len({new_password() for _ in range(100)}) == 100
    assert 31 ** len(new_password()) > 2**128


def test_file_is_read_as_it_was_written() -> None:
    credentials = {c.name: c for c in (Credential("b", HASH, "2026-01-02"),
                                       Credential("a", "certificate"), Credential("c", REVOKED))}
    assert parse(render(credentials), "f") == credentials
    assert "secret" not in render(credentials)


@pytest.mark.parametrize("line", ["a", "a:", "a:md5$x:", "a b:revoked:", ":revoked:",
                                  "a:revoked:\na:certificate:", HASH, f"a:{HASH[:-2]}:",
                                  f"a:{HASH.replace('$10$', '$40$')}:"],
                         ids=["no kind", "empty", "md5", "blank", "no name", "twice", "no colons",
                              "short", "too slow"])
def test_broken_line_is_named(line: str) -> None:
    with pytest.raises(CredentialsError, match=r"f: line \d: "):
        parse(line, "f")


def test_memory_knows_what_it_learned_and_nothing_else() -> None:
    memory, mine = Memory(), Credential("a", HASH)
    assert memory.known(mine, b"x") is None
    memory.learn(mine, b"x", False)
    assert memory.known(mine, b"x") is False
    assert memory.known(mine, b"secret-one") is None
    memory.learn(mine, b"secret-one", True)
    assert memory.known(mine, b"secret-one") is True
    assert memory.known(mine, b"never seen") is False  # and no scrypt for it
    assert memory.known(Credential("b", HASH), b"secret-one") is None
    assert memory.known(Credential("a", hash_password(b"new", 10)), b"secret-one") is None
    assert memory.known(Credential("a", REVOKED), b"secret-one") is False


def test_memory_of_wrong_passwords_is_bounded() -> None:
    memory, mine = Memory(), Credential("a", HASH)
    for number in range(1500):
        memory.learn(mine, b"%d" % number, False)
    assert memory.known(mine, b"0") is None
    assert memory.known(mine, b"1499") is False


def test_throttle_doubles_up_to_its_most_and_forgets() -> None:
    throttle, waits = Throttle(), []
    assert throttle.delay_s("a", 0) == 0
    for _ in range(8):
        throttle.failed("a", 0)
        waits.append(throttle.delay_s("a", 0))
    assert waits[:3] == [FIRST_S, 2 * FIRST_S, 4 * FIRST_S]
    assert waits[-1] == MOST_S
    assert throttle.delay_s("b", 0) == 0
    assert throttle.delay_s("a", CALM_S) == 0


def test_device_has_its_own_topics_and_no_others() -> None:
    permit = Permit("g1", [])
    assert permit.may_publish("tidegate/g1/up")
    assert permit.may_subscribe("tidegate/g1/down/#")
    for topic in ("tidegate/g2/up", "tidegate/g11/up", "tidegate", "x/tidegate/g1/up"):
        assert not permit.may_publish(topic)
    for topic_filter in ("#", "tidegate/#", "tidegate/+/down/#", "+/g1/#", "$SYS/#"):
        assert not permit.may_subscribe(topic_filter)


def test_rules_add_and_name_their_user() -> None:
    rules = [Allow("dash", subscribe=["#"]), Allow("*", publish=["house/{name}/+"]),
             Allow("anonymous", publish=["open/#"])]
    dash, other, nobody = (Permit(name, rules) for name in ("dash", "g1", ""))
    assert dash.may_subscribe("tidegate/#")
    assert not dash.may_publish("tidegate/g1/down/cmd")
    assert other.may_publish("house/g1/lamp")
    assert not other.may_publish("house/dash/lamp")
    assert not other.may_subscribe("#")
    assert nobody.may_publish("open/x")
    assert not nobody.may_publish("tidegate//up")
    assert not nobody.may_publish("house//lamp")


LEVEL = st.sampled_from(["a", "b", "", "$x"])
FILTER = st.builds(lambda levels, end: "/".join([*levels, *end]) or "a",
                   st.lists(LEVEL | st.just("+"), min_size=1, max_size=4),
                   st.sampled_from([[], ["#"]])) | st.just("#")
TOPIC = st.lists(LEVEL, min_size=1, max_size=4).map("/".join).filter(bool)


@given(FILTER, FILTER, TOPIC)
@example("#", "$x/a", "$x/a")
@example("a/#", "a", "a")
@example("a/+", "a/#", "a")
def test_filter_that_is_covered_matches_nothing_more(allowed: str, asked: str, topic: str) -> None:
    if covers(allowed, asked) and matches(asked, topic):
        assert matches(allowed, topic)


@given(FILTER)
def test_filter_covers_itself(topic_filter: str) -> None:
    assert covers(topic_filter, topic_filter)
