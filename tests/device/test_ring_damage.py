"""The ring when its files are not what they were, on CPython: nothing goes out under another
name, and nothing stops what lies behind it."""

from __future__ import annotations

import json
from struct import unpack_from
from types import SimpleNamespace
from typing import Any

import pytest
from node.records import build
from test_ring import KEYS, World

HEAD = 25  # of a segment


def batch(world: World, room: int = 839) -> dict[str, Any] | None:
    """Build the next batch; room [bytes]: what a device with a long name has for it."""
    out = bytearray(room)
    built = build(world.ring, out, 0)
    if built is None:
        return None
    found: dict[str, Any] = json.loads(out[: built[0]])
    return found


def drain(world: World) -> dict[tuple[int, int], list[Any]]:
    """Take all there is; gives the records by (boot, seq)."""
    records = {}
    while found := batch(world):
        boot, seq = found["boot"], found["seq"]
        for number, record in enumerate(found["recs"], seq):
            records[boot, number] = record
        assert world.ring.ack(b"life", boot, seq + len(found["recs"]) - 1)
    return records


def segments(world: World) -> list[str]:
    names = [name for name in world.store.files if name[0] == "s" and name[1:].isdigit()]
    return sorted(names, key=lambda name: int(name[1:]))


def flip(world: World, name: str, at: int, bit: int = 0x40) -> None:
    data = bytearray(world.store.files[name])
    data[at] ^= bit
    world.store.files[name] = bytes(data)


def with_segments() -> tuple[World, int]:
    """Give a world after a power cut, and how many records its oldest segment holds."""
    world = World(200)
    world.add(300)
    world.ring.commit()
    assert len(segments(world)) > 1
    count = unpack_from("<H", world.store.files[segments(world)[0]], 13)[0]
    world.start()
    return world, count


def fail_once(world: World, name: str, error: int) -> None:
    real = world.store.write

    def write(to: str, *parts: Any) -> None:
        if to == name:
            world.store.write = real  # type: ignore[method-assign]
            raise OSError(error, "once")
        real(to, *parts)

    world.store.write = write  # type: ignore[method-assign]


def test_what_is_told_on_a_full_flash_keeps_its_sensors_name() -> None:
    world = World(200)
    world.add(300)
    world.ring.commit()
    fail_once(world, "shapes", 28)
    soil = world.ring.add(5, "soil", ("moisture_pct",), (41.5,))
    assert world.ring.commit()
    assert (1, soil) in world.told
    world.start()
    world.ring.add(5, "door", ("open",), (True,))
    world.ring.commit()
    assert drain(world)[1, soil] == [5, "soil", {"moisture_pct": 41.5}]


WIDE = tuple(f"channel_{number:02d}_temperature_c" for number in range(30))


def test_reading_that_fits_no_batch_is_refused() -> None:
    world = World(200)
    with pytest.raises(ValueError, match="bytes too long"):
        world.ring.add(1, "wide", WIDE, tuple(number / 10 for number in range(30)))
    world.ring.add(1, "wide", WIDE[:18], tuple(number / 10 for number in range(18)))
    world.ring.commit()
    world.start()
    assert len(drain(world)[1, 1][2]) == 18


def test_reading_that_got_in_and_fits_no_batch_lets_the_others_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("node.records._MAX_JSON", 2000)  # as it was stored before
    world = World(200)
    world.ring.add(70000, "wide", WIDE, tuple(number / 10 for number in range(30)))
    world.add(50)
    world.ring.commit()
    records = drain(world)
    assert records[1, 1] == [70000, "unreadable", {}]
    assert len(records) == 51
    assert world.ring.corrupt == 1


@pytest.mark.parametrize("at", [4, 10, 13, HEAD, HEAD + 7, HEAD + 100])
def test_damaged_segment_is_set_aside_and_the_rest_goes_out(at: int) -> None:
    world, count = with_segments()
    flip(world, segments(world)[0], at)
    world.start()
    found = batch(world)
    assert found is not None
    assert found["seq"] == count + 1
    if at >= HEAD:  # else it does not say whose they were
        assert found["drop"] == world.ring.dropped == count
    assert set(drain(world)) == {(1, seq) for seq in range(count + 1, 301)}
    assert world.ring.corrupt == 1
    assert "bad" in world.store.files


def test_damaged_head_takes_no_record_of_a_slot_along() -> None:
    world = World(200)
    world.add(100)
    world.ring.commit(True)
    world.add(3)
    world.ring.commit()
    for name in segments(world):
        flip(world, name, 10)  # its records seem to be numbers far above
    world.start()
    assert set(drain(world)) >= {(1, 101), (1, 102), (1, 103)}


def test_segment_that_cannot_be_read_is_set_aside() -> None:
    world, count = with_segments()
    oldest, real = segments(world)[0], world.store.read

    def read(name: str, offset: int, buf: Any) -> int:
        if name == oldest and offset > HEAD:
            raise OSError(5, "worn")
        return real(name, offset, buf)

    world.store.read = read  # type: ignore[method-assign]
    assert set(drain(world)) == {(1, seq) for seq in range(count + 1, 301)}
    assert world.ring.errors == 1
    assert world.ring.dropped == count


def test_segment_that_wears_out_while_it_is_sent_is_set_aside() -> None:
    world, count = with_segments()
    found = batch(world)
    assert found is not None
    oldest, real = segments(world)[0], world.store.read

    def read(name: str, offset: int, buf: Any) -> int:
        if name == oldest:
            raise OSError(5, "worn")
        return real(name, offset, buf)

    world.store.read = read  # type: ignore[method-assign]
    assert world.ring.ack(b"life", 1, 2) == 2
    assert set(drain(world)) == {(1, seq) for seq in range(count + 1, 301)}
    assert world.ring.dropped == count - 2


def old_format(world: World) -> None:
    """Turn the segments into what firmware 0.1 wrote: no sums."""
    for name in segments(world):
        data = world.store.files[name]
        assert data[0] == 2
        world.store.files[name] = b"\x01" + data[1:17] + data[HEAD:]


def test_segments_of_earlier_firmware_go_out() -> None:
    world, _ = with_segments()
    old_format(world)
    world.start()
    records = drain(world)
    assert set(records) == {(1, seq) for seq in range(1, 301)}
    assert records[1, 1] == [7, "air", {"temperature_c": 1, "humidity_pct": 1}]
    assert world.ring.corrupt == 0


@pytest.mark.parametrize(("at", "bit"), [(0, 0x80), (0, 1), (0, 0x08), (1, 0x40), (7, 0x40)])
def test_damage_in_a_segment_of_earlier_firmware_stops_nothing(at: int, bit: int) -> None:
    world, count = with_segments()
    old_format(world)
    flip(world, segments(world)[0], 17 + at, bit)
    world.start()
    assert set(drain(world)) >= {(1, seq) for seq in range(count + 1, 301)}
    assert world.ring.corrupt > 0


def change_table(world: World, damage: str) -> None:
    table = world.store.files["shapes"]
    if damage == "gone":
        del world.store.files["shapes"]
    elif damage == "name":
        world.store.files["shapes"] = table.replace(b"temp", b"teep")
    elif damage == "sum":
        world.store.files["shapes"] = table[:-1] + bytes([table[-1] ^ 1])
    else:
        world.store.files["shapes"] = table[: len(table) // 2]


@pytest.mark.parametrize("damage", ["gone", "name", "sum", "half"])
def test_damaged_table_of_names_gives_no_reading_another_name(damage: str) -> None:
    world = World(200)
    world.add(300)
    world.ring.commit()
    change_table(world, damage)
    for boot in 2, 3:  # also those that came after the damage, and a second power cut
        world.start()
        world.ring.add(5, "door", ("open", "locked"), (True, boot))
        world.ring.commit()
    records = drain(world)
    assert {tuple(records[1, seq][1:2]) for seq in range(1, 301)} == {("unreadable",)}
    assert records[2, 1] == [5, "door", {"open": True, "locked": 2}]
    assert records[3, 1] == [5, "door", {"open": True, "locked": 3}]


def test_names_are_short_again_when_the_ring_is_empty() -> None:
    world = World(200)
    world.add(3)
    world.ring.commit()
    change_table(world, "half")
    world.start()
    world.add(1)
    world.ring.commit()
    long = world.ring._tail
    assert len(drain(world)) == 4
    world.add(1)
    world.ring.commit()
    assert world.ring._tail - world.ring._head < long / 2
    assert json.loads(world.store.files["shapes"][:-8]) == [["air", *KEYS]]
    world.start()
    assert drain(world)[2, 2] == [14, "air", {"temperature_c": 2, "humidity_pct": 2}]


def test_table_of_earlier_firmware_is_read() -> None:
    world = World(200)
    world.add(3)
    world.ring.commit()
    world.store.files["shapes"] = world.store.files["shapes"][:-8]
    world.start()
    assert drain(world)[1, 1] == [7, "air", {"temperature_c": 1, "humidity_pct": 1}]


class Board:
    """What rare.py needs of an App, and of node.board."""

    def __init__(self, world: World) -> None:
        self.ring = world.ring
        self.sleep_ms = 1000
        self.link = SimpleNamespace(state=0, wire=None, close=lambda _: None)
        self.wifi = SimpleNamespace(stop=lambda: None)
        self.machine = SimpleNamespace(deepsleep=lambda _: None)

    def reset(self) -> None:
        pass


@pytest.fixture(params=["sleep", "reset"])
def leave(request: pytest.FixtureRequest, rare: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """End a boot by deep sleep, or as commanded."""
    def end(world: World) -> None:
        board = Board(world)
        monkeypatch.setattr(rare, "board", board)
        getattr(rare, request.param)(board)

    return end


def test_acknowledged_readings_do_not_come_again(leave: Any) -> None:
    world = World(200)
    for count in 3, 70:
        for _ in range(count):
            world.add(1)
            world.ring.commit()
        assert drain(world)
        leave(world)
        world.start()
        assert drain(world) == {}
        assert world.ring._end_seg == world.ring._first_seg


def test_readings_that_are_held_outlast_the_boot(leave: Any) -> None:
    world = World(200)
    world.add(3)
    world.ring.commit()
    world.ring.ack(b"life", 1, 2)
    world.add(1)
    leave(world)
    world.start()
    assert set(drain(world)) >= {(1, 3), (1, 4)}


def test_readings_that_earlier_boots_left_unread_outlast_the_boot(leave: Any) -> None:
    world = World(200)
    world.add(1)
    world.ring.commit()
    kept = world.store.files["j0"]
    fail_once(world, "s1", 5)
    world.start()  # j0 cannot become a segment: it waits for the next boot
    assert world.ring.held() == (0, 0)
    leave(world)
    assert world.store.files["j0"] == kept
    world.start()
    assert set(drain(world)) == {(1, 1)}
