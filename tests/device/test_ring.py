"""The ring of records, on CPython: power cuts, full flash, doubtful acknowledgements."""

from __future__ import annotations

import json
from binascii import crc32
from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from node.records import build
from node.ring import Ring

KEYS = ("temperature_c", "humidity_pct")


class CutError(OSError):
    pass


class Files:
    """Files as littlefs keeps them: a write happens or not, and the power goes in between.

    cut_after: how many more changes happen; in the one after, chance decides if it did.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.cut_after: int | None = None
        self.happens = False
        self.full = False

    def _change(self) -> bool:
        if self.cut_after is None:
            return True
        self.cut_after -= 1
        if self.cut_after < -1:
            raise CutError(5, "no power")
        return self.cut_after >= 0 or self.happens

    def _after(self) -> None:
        if self.cut_after is not None and self.cut_after < 0:
            raise CutError(5, "no power")

    def names(self) -> list[str]:
        return list(self.files)

    def size(self, name: str) -> int:
        return len(self.files[name]) if name in self.files else -1

    def read(self, name: str, offset: int, buf: Any) -> int:
        data = self.files.get(name, b"")[offset : offset + len(buf)]
        buf[: len(data)] = data
        return len(data)

    def crc(self, name: str, offset: int, end: int, buf: Any) -> int | None:
        crc = 0
        while offset < end:
            got = self.read(name, offset, buf[: end - offset])
            if not got:
                return None
            crc, offset = crc32(buf[:got], crc), offset + got
        return crc

    def write(self, name: str, *parts: Any) -> None:
        if self.full and name[0] in "js":
            raise OSError(28, "full")
        if name not in self.files and self._change():
            self.files[name] = b""  # littlefs makes a file before it fills it
        self._after()
        if self._change():
            self.files[name] = b"".join(bytes(part) for part in parts)
        self._after()

    def remove(self, name: str) -> None:
        if self._change():
            self.files.pop(name, None)
        self._after()

    def rename(self, old: str, new: str) -> None:
        if self._change():
            self.files[new] = self.files.pop(old)
        self._after()


class World:
    """A device and a gateway, and what was promised to whom."""

    def __init__(self, flash_blocks: int) -> None:
        self.store = Files()
        self.flash_bytes = flash_blocks * 4096
        self.boot = 0
        self.told: set[tuple[int, int]] = set()
        self.have: dict[int, int] = {}
        self.sent: set[tuple[int, int]] = set()
        self.counted: dict[int, int] = {}
        self.start()

    def start(self) -> None:
        self.boot += 1
        self.store.cut_after = None
        self.ring = Ring(self.store, b"life", self.boot, 1024, self.flash_bytes, self._hear)
        count_drop = self.ring._count_drop

        def counting(life: bytes, boot: int, count: int) -> None:
            self.counted[boot] = self.counted.get(boot, 0) + count
            count_drop(life, boot, count)

        self.ring._count_drop = counting

    def _hear(self, life: bytes, boot: int, first: int, last: int) -> None:
        for seq in range(first, last + 1):
            assert (boot, seq) not in self.told
            self.told.add((boot, seq))

    def add(self, count: int) -> None:
        for _ in range(count):
            seq = self.ring._next
            assert self.ring.add(seq * 7, "air", KEYS, (self.boot, seq)) == seq

    def exchange(self, upto: int | None = None) -> bool:
        """Send one batch and acknowledge it, or only `upto` records of it."""
        out = bytearray(512)
        built = build(self.ring, out, 1 << 33)
        if built is None:
            return False
        used, life, boot, last = built
        batch = json.loads(out[:used])
        assert batch["low"] == batch["seq"]
        assert ("now" in batch) == (boot == self.boot)
        for number, (uptime, name, values) in enumerate(batch["recs"], batch["seq"]):
            assert (uptime, name) == (number * 7, "air")
            assert values == {"temperature_c": boot, "humidity_pct": number}
            self.sent.add((boot, number))
        assert len(batch["recs"]) == last - batch["seq"] + 1
        have = max(self.have.get(boot, 0), batch["seq"] - 1)
        if upto is not None:
            last = min(last, have + upto)
        self.have[boot] = max(have, last)
        self.ring.ack(life, boot, self.have[boot])
        return True

    def missing(self) -> list[tuple[int, int]]:
        """What was told and neither sent nor is to come, after all has been sent."""
        return sorted(self.told - self.sent)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(1, 60)),
        st.tuples(st.just("commit"), st.just(0)),
        st.tuples(st.just("exchange"), st.integers(1, 8)),
        st.tuples(st.just("partly"), st.integers(0, 5)),
        st.tuples(st.just("noise"), st.integers(0, 200)),
        st.tuples(st.just("cut"), st.integers(0, 40)),
        st.tuples(st.just("time"), st.integers(0, 10**6)),
    ),
    max_size=40,
)


@settings(max_examples=250, deadline=None)
@given(steps, st.booleans())
def test_ring_gives_back_what_it_told(plan: list[tuple[str, int]], happens: bool) -> None:
    world = World(200)
    for step, number in plan:
        try:
            if step == "add":
                world.add(number)
            elif step == "commit":
                assert world.ring.commit()
                assert world.ring._safe_seq == world.ring._next
            elif step == "exchange":
                for _ in range(number):
                    world.exchange()
            elif step == "partly":
                world.exchange(number)
            elif step == "noise":  # acknowledgements of what we do not hold
                assert world.ring.ack(b"efil", world.boot, number) == 0
                assert world.ring.ack(b"life", world.boot + 9, number) == 0
                assert world.ring.ack(b"life", world.boot, world.ring._next + number) == 0
            elif step == "time":
                world.ring.learned_time(1764000000000 + number)
            else:
                world.store.cut_after, world.store.happens = number, happens
                for _ in range(number):  # the ring sees errors, then the power is gone
                    world.add(3)
                    world.ring.commit()
                    if number % 2:
                        world.exchange()
                world.start()
        except CutError:
            world.start()
    world.ring.commit()
    while world.exchange():
        pass
    lost = Counter(boot for boot, _ in world.missing())
    for boot, count in lost.items():  # flash failed while the board still ran: RAM is the bound
        assert count <= world.counted.get(boot, 0)
    if not any(step == "cut" for step, _ in plan):
        assert world.counted == {}
        assert not lost
    assert world.ring.corrupt == 0
    assert world.ring.held() == (0, 0)


@settings(max_examples=50, deadline=None)
@given(st.integers(2, 5), st.integers(600, 1500), st.integers(1, 7))
def test_ring_drops_the_oldest_and_counts_it(blocks: int, records: int, group: int) -> None:
    world = World(blocks)
    for _ in range(records // group):
        world.add(group)
        world.ring.commit()
    world.ring.commit()
    dropped = world.ring.dropped
    segments = world.ring.held()[1]
    assert segments <= blocks
    while world.exchange():
        pass
    lost = world.missing()
    assert len(lost) == dropped > 0
    assert lost == [(1, seq) for seq in range(1, dropped + 1)]


def test_ring_on_full_flash_goes_on_in_ram_and_says_so() -> None:
    world = World(4)
    world.store.full = True
    world.add(200)
    assert not world.ring.commit()
    assert world.told == set()
    assert world.ring.volatile
    assert world.ring.errors
    assert world.ring.dropped > 0
    while world.exchange():
        pass
    assert max(world.sent) == (1, 200)
    world.store.full = False
    world.add(1)
    assert world.ring.commit()
    assert world.told == {(1, 201)}


def test_ring_keeps_the_time_of_an_earlier_boot() -> None:
    world = World(8)
    world.add(3)
    world.ring.commit()
    world.ring.learned_time(1764000000000)
    world.start()
    out = bytearray(512)
    built = build(world.ring, out, 0)
    assert built is not None
    batch = json.loads(out[: built[0]])
    assert batch["t0"] == 1764000000000
    assert (batch["boot"], batch["life"], len(batch["recs"])) == (1, b"life".hex(), 3)
    assert "now" not in batch


def test_ring_never_uses_a_seq_twice_when_the_boot_counter_stands_still() -> None:
    world = World(8)
    world.add(3)
    world.ring.commit()
    world.boot -= 1
    world.start()
    assert world.ring.add(0, "air", KEYS, (1, 2)) == 4


def test_ring_sets_a_broken_segment_aside() -> None:
    world = World(8)
    world.add(300)
    world.ring.commit()
    first = min(n for n in world.store.files if n[0] == "s" and n[1:].isdigit())
    world.store.files[first] = b"\x07nonsense" + world.store.files[first][9:-3]
    world.start()
    while world.exchange():
        pass
    assert world.ring.corrupt == 1
    assert "bad" in world.store.files
    assert 0 < len(world.missing()) < 300
