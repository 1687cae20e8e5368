"""gateway/outbox.py: that the upstream has to forget us is known until it did."""

from __future__ import annotations

from pathlib import Path

import pytest
from outboxes import SMALL, LostSync, crashed, entry, filled, reopened

from gateway.batch import Batch
from gateway.errors import OutboxError
from gateway.outbox import Outbox


def settled(path: Path) -> Outbox:
    """An outbox whose upstream holds nothing from before."""
    outbox = Outbox(path)
    outbox.forgotten()
    outbox.flush()
    return outbox


def test_new_outbox_wants_it_until_it_is_done_whatever_comes_between(path: Path) -> None:
    outbox = Outbox(path)
    assert outbox.forget
    outbox.apply(Batch(insert=[entry(1, mid=1)]))
    for again in (crashed, reopened):
        outbox = again(outbox)
        assert outbox.forget
    outbox.forgotten()
    assert not outbox.forget
    for again in (crashed, reopened):
        outbox = again(outbox)
        assert not outbox.forget
    assert outbox.start().depth == 1


def test_done_is_done_also_after_a_flush_that_failed(path: Path) -> None:
    outbox = Outbox(path)
    outbox.apply(Batch(insert=[entry(1, mid=1)]))
    disk = LostSync(outbox)
    disk.failing = True
    with pytest.raises(OutboxError):
        outbox.flush()
    outbox.forgotten()
    assert not crashed(outbox).forget


def test_it_can_be_noted_while_the_disk_is_full(path: Path) -> None:
    outbox = Outbox(path, SMALL)
    outbox._db.execute("PRAGMA query_only=1")
    assert filled(outbox) > 0
    outbox.forgotten()
    outbox._db.execute("PRAGMA query_only=0")
    assert not crashed(outbox).forget


@pytest.mark.parametrize("damage", ["database", "journal", "other journal"])
def test_what_was_set_aside_may_have_known_identifiers(path: Path, damage: str) -> None:
    outbox = settled(path)
    for number in (1, 2):
        outbox.apply(Batch(insert=[entry(number, mid=number)]))
    outbox._db.close()
    outbox.journal.close()
    file = path if damage == "database" else path.with_name("outbox.db-batches")
    data = bytearray(file.read_bytes())
    if damage == "other journal":
        data[0] ^= 1
        other = settled(path.with_name("other.db"))
        other.apply(Batch(insert=[entry(1, mid=1)]))
        data[:] = path.with_name("other.db-batches").read_bytes()
        other.close()
    else:
        data[40:60] = bytes(20)
    file.write_bytes(data if damage != "database" else b"junk" * 999)
    outbox = Outbox(path)
    assert outbox.set_aside is not None
    assert outbox.forget
    outbox = crashed(outbox)
    assert outbox.set_aside is None
    assert outbox.forget
