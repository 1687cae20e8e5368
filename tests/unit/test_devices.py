"""gateway/devices.py: the contract, against a device that drops, repeats, skips and is reborn."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from gateway.devices import Devices, Taken, ack_payload, device_of
from gateway.errors import ProtocolError

UTC_MS = 1_800_000_000_000


def batch(**changes: Any) -> bytes:
    made = {"v": 1, "life": "9f03c2aa", "boot": 7, "seq": 1, "low": 1, "drop": 0, "now": 1000,
            "recs": [[400, "air", {"t": 1.5}]]}
    made.update(changes)
    return json.dumps({key: value for key, value in made.items() if value is not ...}).encode()


def recs(count: int) -> list[list[Any]]:
    return [[index, "s", {"n": index}] for index in range(count)]


def seqs(taken: Taken) -> list[int]:
    return [json.loads(payload)["seq"] for _, payload in taken.records]


class Device(RuleBasedStateMachine):
    """A device with a bounded ring, a lossy link, and a gateway that may restart."""

    def __init__(self) -> None:
        super().__init__()
        self.disk: dict[tuple[str, str, int], int] = {}
        self.gateway = Devices(dict(self.disk))
        self.life, self.boot, self.next_seq = "a" * 8, 1, 1
        self.lives = 0
        self.rings: dict[tuple[str, int], list[int]] = {}  # (life, boot) → seqs still held
        self.got: dict[tuple[str, int], list[int]] = {}
        self.dropped: dict[tuple[str, int], set[int]] = {}
        self.told_dropped = 0

    def ring(self) -> list[int]:
        return self.rings.setdefault((self.life, self.boot), [])

    @rule(count=st.integers(1, 5))
    def read_sensors(self, count: int) -> None:
        for _ in range(count):
            self.ring().append(self.next_seq)
            self.next_seq += 1

    @rule(count=st.integers(1, 3))
    def ring_is_full(self, count: int) -> None:
        lost = self.dropped.setdefault((self.life, self.boot), set())
        for _ in range(min(count, len(self.ring()))):
            lost.add(self.ring().pop(0))

    @rule(flash_erased=st.booleans())
    def reboot(self, flash_erased: bool) -> None:
        if flash_erased:
            self.lives += 1  # a device draws 32 bits: never one that it had
            self.life, self.boot = f"{self.lives:08x}", 0
            self.rings.clear()
        self.boot += 1
        self.next_seq = 1

    @rule(pick=st.integers(0, 5), skip=st.integers(0, 3), size=st.integers(1, 6),
          arrives=st.booleans(), ack_arrives=st.booleans())
    def send(self, pick: int, skip: int, size: int, arrives: bool, ack_arrives: bool) -> None:
        held = [key for key, ring in self.rings.items() if ring]
        if not held or not arrives:
            return
        key = held[pick % len(held)]
        ring = self.rings[key]
        part = ring[skip:skip + size]
        if not part:
            return
        life, boot = key
        taken = self.gateway.take("dev", batch(life=life, boot=boot, seq=part[0], low=ring[0],
                                               recs=recs(len(part))), UTC_MS)
        assert taken.key == ("dev", life, boot)
        assert len(taken.records) + taken.duplicates + taken.holes == len(part)
        self.got.setdefault(key, []).extend(seqs(taken))
        self.told_dropped += taken.device_dropped
        if taken.seq:
            self.disk["dev", life, boot] = taken.seq
        ack = json.loads(ack_payload(taken, UTC_MS))
        assert (ack["life"], ack["boot"], ack["seq"]) == (life, boot, taken.seq)
        if ack_arrives:
            self.rings[key] = [seq for seq in ring if seq > ack["seq"]]
            assert set(ring) - set(self.rings[key]) <= set(self.got[key])

    @rule(junk=st.binary(max_size=40))
    def send_junk(self, junk: bytes) -> None:
        with pytest.raises(ProtocolError):
            self.gateway.take("dev", b"\0" + junk, UTC_MS)

    @rule()
    def gateway_restarts(self) -> None:
        self.gateway = Devices(dict(self.disk))

    @invariant()
    def nothing_twice_and_nothing_out_of_order(self) -> None:
        for got in self.got.values():
            assert got == sorted(set(got))

    @invariant()
    def nothing_missing_but_what_the_device_dropped(self) -> None:
        for key, got in self.got.items():
            if got:
                missing = set(range(1, got[-1] + 1)) - set(got)
                assert missing <= self.dropped.get(key, set())


TestDevice = Device.TestCase
TestDevice.settings = settings(max_examples=80, stateful_step_count=40)


def test_hole_is_not_taken_and_not_acknowledged() -> None:
    devices = Devices({})
    assert devices.take("d", batch(recs=recs(3)), UTC_MS).seq == 3
    taken = devices.take("d", batch(seq=6, recs=recs(2)), UTC_MS)
    assert (taken.records, taken.holes, taken.seq) == ([], 2, 3)


def test_hole_at_the_very_start_is_acknowledged_with_seq_0() -> None:
    taken = Devices({}).take("d", batch(seq=2, low=1), UTC_MS)
    assert (taken.records, taken.seq) == ([], 0)


def test_records_dropped_on_the_device_are_counted_and_passed_over() -> None:
    devices = Devices({})
    devices.take("d", batch(recs=recs(3)), UTC_MS)
    taken = devices.take("d", batch(seq=10, low=8), UTC_MS)
    assert (taken.device_dropped, taken.holes, taken.seq) == (4, 1, 7)
    taken = devices.take("d", batch(seq=8, low=8, recs=recs(3)), UTC_MS)
    assert (seqs(taken), taken.seq) == ([8, 9, 10], 10)


def test_batch_that_overlaps_gives_only_what_is_new() -> None:
    devices = Devices({})
    devices.take("d", batch(recs=recs(3)), UTC_MS)
    taken = devices.take("d", batch(seq=2, recs=recs(4)), UTC_MS)
    assert (seqs(taken), taken.duplicates, taken.seq) == ([4, 5], 2, 5)


def test_other_life_boot_and_device_are_other_records() -> None:
    devices = Devices({})
    for device, life, boot in (("d", "a", 1), ("d", "a", 2), ("d", "b", 1), ("e", "a", 1)):
        taken = devices.take(device, batch(life=life, boot=boot), UTC_MS)
        assert len(taken.records) == 1


def test_boots_too_old_to_come_again_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.devices.BOOTS_MOST", 3)
    seen = {("d", "a", boot): 5 for boot in range(1, 9)}  # as before there was a limit
    devices, disk = Devices(seen), dict(seen)
    for boot in range(9, 20):
        taken = devices.take("d", batch(life="a", boot=boot), UTC_MS)
        assert len(taken.records) > 0
        disk |= {taken.key: taken.seq} | dict.fromkeys(taken.forgotten, 0)
        assert devices.take("d", batch(life="a", boot=boot), UTC_MS).duplicates > 0
    assert seen == {key: seq for key, seq in disk.items() if seq}
    assert [boot for _, _, boot in seen] == [17, 18, 19]
    assert devices.take("d", batch(life="b", boot=1), UTC_MS).forgotten == []
    late = devices.take("d", batch(life="a", boot=2), UTC_MS)
    assert late.forgotten == []  # older than all: it takes nobody's place


@pytest.mark.parametrize(("changes", "utc_ms", "expected"), [
    ({}, UTC_MS, "2027-01-15T07:59:59.400Z"),  # 600 ms before it came
    ({"now": ..., "t0": UTC_MS}, UTC_MS + 10**9, "2027-01-15T08:00:00.400Z"),
    ({"now": ...}, UTC_MS, None),
    ({}, None, None),  # the gateway has no clock either
    ({"t0": UTC_MS}, None, "2027-01-15T08:00:00.400Z"),  # but the device had one
    ({"now": 1e300}, UTC_MS, None),
    ({"recs": [[1e300, "a", {}]]}, UTC_MS, None),
    ({"recs": [[-1e15, "a", {}]]}, UTC_MS, None),
])
def test_time_is_worked_out_from_uptime(changes: dict[str, Any], utc_ms: int | None,
                                        expected: str | None) -> None:
    taken = Devices({}).take("d", batch(**changes), utc_ms)
    assert json.loads(taken.records[0][1])["time"] == expected


def test_record_upstream_is_as_the_contract_says() -> None:
    sensor, payload = Devices({}).take("g-1", batch(seq=1, recs=[[
        400, "air", {"t": 23.5, "ok": True, "s": "ä", "none": None}]]), UTC_MS).records[0]
    assert sensor == "air"
    assert json.loads(payload) == {
        "device": "g-1", "life": "9f03c2aa", "boot": 7, "seq": 1,
        "time": "2027-01-15T07:59:59.400Z", "sensor": "air",
        "values": {"t": 23.5, "ok": True, "s": "ä", "none": None}}


@pytest.mark.parametrize("changes", [
    {"v": 2}, {"recs": []}, {"seq": 0}, {"low": 0}, {"boot": 0}, {"low": 2}, {"life": ""},
    {"life": "x" * 17}, {"boot": 2**63}, {"seq": 2**60, "low": 1}, {"seq": "1"}, {"recs": ...},
    {"recs": [[1, "a+b", {}]]}, {"recs": [[1, "a/b", {}]]}, {"recs": [[1, "#", {}]]},
    {"recs": [[1, "", {}]]}, {"recs": [[1, "x" * 65, {}]]}, {"recs": [[1, "a\x00", {}]]},
    {"recs": [[1, "a", {"x": [1]}]]}, {"recs": [[1, "a"]]}])
def test_unreadable_batch_raises_and_changes_nothing(changes: dict[str, Any]) -> None:
    devices = Devices({})
    with pytest.raises(ProtocolError) as caught:
        devices.take("d", batch(**changes), UTC_MS)
    assert caught.value.reason == "unreadable batch"
    assert len(devices.take("d", batch(), UTC_MS).records) == 1


JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
                    lambda inner: st.lists(inner, max_size=4)
                    | st.dictionaries(st.text(max_size=3), inner, max_size=3), max_leaves=8)


@given(st.dictionaries(st.sampled_from(["v", "life", "boot", "seq", "low", "now", "t0", "recs"]),
                       JSON), st.none() | st.integers(0, 2**45))
def test_any_json_raises_nothing_but_protocolerror(changes: dict[str, Any],
                                                   utc_ms: int | None) -> None:
    try:
        Devices({}).take("d", batch(**changes), utc_ms)
    except ProtocolError:
        pass


@pytest.mark.parametrize(("topic", "device"), [
    ("tidegate/green-house_1/up", "green-house_1"), ("tidegate/" + "x" * 33 + "/up", None),
    ("tidegate//up", None), ("tidegate/a/b/up", None), ("tidegate/a/up/", None),
    ("tidegate/ä/up", None), ("tidegate/a/up\n", None), ("other/a/up", None)])
def test_device_of_a_topic(topic: str, device: str | None) -> None:
    assert device_of(topic) == device
