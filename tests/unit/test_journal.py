"""gateway/journal.py: records come back whole, in order, and none of another life."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from gateway import journal as journals
from gateway.errors import OutboxError
from gateway.journal import PAGE, RESERVE_BYTES, AlienError, Found, Journal, read

SIZE = RESERVE_BYTES + 4 * PAGE
BODIES = [b"first", b"x" * 9000, b"", b"last"]


@pytest.fixture
def path(path: Path) -> Path:
    path.parent.mkdir()
    return path.with_name("outbox.db-batches")


def written(path: Path, applied: int = 6, bodies: list[bytes] = BODIES) -> Journal:
    journal = Journal(path, SIZE)
    assert journal.read(applied) == Found(applied + 1, 0)
    for body in bodies:
        journal.append(body)
    return journal


def test_records_come_back_in_order_and_more_may_follow(path: Path) -> None:
    written(path).close()
    journal = Journal(path, SIZE)
    assert journal.read(6).bodies == BODIES
    journal.append(b"more")
    assert read(path, 6).bodies == [*BODIES, b"more"]


def test_generation_that_the_database_has_is_not_read_again(path: Path) -> None:
    journal = written(path)
    assert read(path, 7) == Found(8, 0)
    journal.begin()
    journal.append(b"new")
    assert read(path, 7).bodies == [b"new"]  # what stands behind it is of the one before


def test_rest_of_a_generation_is_read_where_the_database_has_its_beginning(path: Path) -> None:
    journal = written(path)
    assert read(path, 7, 4 * PAGE) == Found(7, 6 * PAGE, BODIES[2:])
    journal.read(7, 4 * PAGE)
    journal.append(b"more")
    assert read(path, 7, 4 * PAGE).bodies == [*BODIES[2:], b"more"]
    assert read(path, 7, 7 * PAGE) == Found(8, 0)


def test_rest_of_a_generation_is_of_no_worth_once_the_next_one_began(path: Path) -> None:
    journal = written(path)
    journal.begin()
    journal.append(b"new")
    assert read(path, 7, 4 * PAGE) == Found(8, PAGE, [b"new"])


def test_damage_in_the_rest_of_a_generation_is_told(path: Path) -> None:
    written(path).close()
    data = bytearray(path.read_bytes())
    data[PAGE + 100] ^= 1
    path.write_bytes(data)
    assert read(path, 7, PAGE) == Found(7, 6 * PAGE, BODIES[2:], damaged=True)


def test_journal_of_another_database_is_refused(path: Path) -> None:
    written(path)
    with pytest.raises(AlienError):
        read(path, 5)


def test_record_torn_at_the_end_is_as_if_never_written(path: Path) -> None:
    written(path).close()
    data = bytearray(path.read_bytes())
    last = 5 * PAGE  # `first`, three pages, one without a body
    data[last + 16:last + 20] = bytes(4)
    path.write_bytes(data)
    assert read(path, 6) == Found(7, last, BODIES[:3])


def test_damage_before_a_whole_record_is_told(path: Path) -> None:
    written(path).close()
    data = bytearray(path.read_bytes())
    data[PAGE + 100] ^= 1
    path.write_bytes(data)
    found = read(path, 6)
    assert (found.bodies, found.damaged) == ([BODIES[0], *BODIES[2:]], True)


def test_room_ends_before_the_reserve_and_the_reserve_at_the_file(path: Path) -> None:
    journal = written(path, bodies=[])
    while journal.room(b"x", reserve=False):
        journal.append(b"x")
    assert journal.at == SIZE - RESERVE_BYTES
    while journal.room(b"x", reserve=True):
        journal.append(b"x")
    assert journal.at == path.stat().st_size == SIZE
    assert len(read(path, 6).bodies) == SIZE // PAGE


def test_write_that_fails_leaves_its_place_to_the_next(
        path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = written(path)

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(OutboxError, match="No space left"):
            journal.append(b"lost")
    journal.append(b"kept")
    assert read(path, 6).bodies == [*BODIES, b"kept"]


def test_file_system_without_direct_writes_is_written_all_the_same(
        path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def no_direct(name: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_DIRECT:
            raise OSError(22, "Invalid argument")
        return real(name, flags, mode)

    monkeypatch.setattr(journals.os, "open", no_direct)
    written(path)
    assert read(path, 6).bodies == BODIES
