"""After a power cut the outbox holds what was committed; a weaker SQLite would not."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tools.crash_disk import Call, Disk, read_trace, survivors
from tools.crash_power import NO_SYNC, PowerError, Result, power_cuts

DB = "/f/a.db"


def cut(points: int, seed: int, weaken: str = "") -> Result:
    try:
        return power_cuts(points, seed, commits=300, weaken=weaken)
    except PowerError as error:
        pytest.skip(f"writes cannot be recorded here: {error}")


@pytest.mark.timeout(120)
def test_committed_is_there_after_power_cuts() -> None:
    result = cut(80, 11)
    assert not result.offences
    assert result.passed
    assert result.cuts >= 300


@pytest.mark.timeout(120)
@pytest.mark.parametrize("weaken", [
    "PRAGMA journal_mode=MEMORY", "PRAGMA synchronous=OFF", NO_SYNC])
def test_power_cut_of_a_store_that_syncs_too_little_is_seen(weaken: str) -> None:
    assert cut(40, 11, weaken).offences


def after(disk: Disk, target: Path, survival: str) -> dict[str, bytes]:
    for old in target.iterdir():
        old.unlink()
    assert survival in ("nothing", "all")
    disk.after_power_cut(target, "all" if survival == "all" else "nothing", random.Random(1))
    return {path.name: path.read_bytes() for path in target.iterdir()}


def test_unsynced_write_may_be_lost_and_synced_may_not(tmp_path: Path) -> None:
    disk = Disk(Path("/f"))
    disk.do(Call("create", DB))
    assert after(disk, tmp_path, "nothing") == {}
    disk.do(Call("write", DB, 0, b"safe"))
    disk.do(Call("sync", DB))
    disk.do(Call("sync", "/f"))
    disk.do(Call("write", DB, 4, b"not"))
    assert after(disk, tmp_path, "nothing") == {"a.db": b"safe"}
    assert after(disk, tmp_path, "all") == {"a.db": b"safenot"}


def test_unlinked_file_comes_back_before_the_folder_is_synced(tmp_path: Path) -> None:
    disk = Disk(Path("/f"))
    for call in (Call("create", DB), Call("sync", DB), Call("sync", "/f"), Call("unlink", DB)):
        disk.do(call)
    assert after(disk, tmp_path, "nothing") == {"a.db": b""}
    assert after(disk, tmp_path, "all") == {}


def test_sectors_survive_each_by_itself() -> None:
    call = Call("write", DB, 100, bytes(2000))
    parts = [part for seed in range(20) for part in survivors([call], "sectors",
                                                              random.Random(seed))]
    assert {(part.at, len(part.data)) for part in parts} == {
        (100, 412), (512, 512), (1024, 512), (1536, 512), (2048, 52)}


def test_write_to_a_file_opened_for_synced_writes_is_safe() -> None:
    db = "".join(f"\\x{byte:02x}" for byte in DB.encode())
    lines = [f'openat(AT_FDCWD, "{db}", O_RDWR|O_CREAT|O_DSYNC|O_DIRECT, 0600) = 3<{db}>\n',
             f'pwrite64(3<{db}>, "\\x61", 1, 0) = 1\n']
    assert list(read_trace(iter(lines), Path("/f"))) == [
        Call("create", DB), Call("write", DB, 0, b"a"), Call("sync", DB)]


def test_trace_is_read_and_what_failed_is_left_out() -> None:
    db = "".join(f"\\x{byte:02x}" for byte in DB.encode())
    lines = [
        f'openat(AT_FDCWD, "{db}", O_RDWR|O_CREAT|O_CLOEXEC, 0644) = 3<{db}>\n',
        f'pwrite64(3<{db}>, "\\x61\\x62", 2, 8) = 2\n',
        f"ftruncate(3<{db}>, 4) = 0\n",
        f"fdatasync(3<{db}>) = 0\n",
        f'unlink("{db}") = -1 ENOENT (No such file or directory)\n',
        "fsync(9<\\x2f\\x67>) = 0\n",
        "+++ exited with 0 +++\n",
    ]
    assert list(read_trace(iter(lines), Path("/f"))) == [
        Call("create", DB), Call("write", DB, 8, b"ab"), Call("truncate", DB, 4),
        Call("sync", DB)]
