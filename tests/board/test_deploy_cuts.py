"""A deploy that is cut off at any moment: one release is whole and runs; the next one goes on."""

from __future__ import annotations

import contextlib
import itertools
import random
import shutil
from pathlib import Path
from typing import Any

import pytest
from releases import (
    OLD_BOOT,
    PARTS,
    Calls,
    Make,
    before_slots,
    deploy_until_off,
    in_its_swap,
    restarted,
    runs,
    use,
)

from tools import deploy, firmware
from tools.board_errors import UnpluggedError
from tools.board_link import BoardLink
from tools.virtual import VirtualBoard
from tools.virtual.flash import FREE

MANNERS = (("before", UnpluggedError), ("middle", KeyboardInterrupt), ("after", UnpluggedError))


def has_one(make: Make, monkeypatch: pytest.MonkeyPatch, **more: Any) -> VirtualBoard:
    """Give a board that runs release 1 out of a slot."""
    board = make("pass", pty=True, **more)
    use(monkeypatch, 1)
    deploy.deploy(board.port)
    return board


def count_calls(board: VirtualBoard, monkeypatch: pytest.MonkeyPatch,
                releases: tuple[int, ...] = (2, 3, 1)) -> int:
    """Deploy these; gives what the host asks of the board at each, at least."""
    counts = []
    for number in releases:
        use(monkeypatch, number)
        with Calls().patched() as calls:
            deploy.deploy(board.port)
        counts.append(calls.count)
    return min(counts)


class PastTheEndError(Exception):
    """The deploy asked less of the board than the one before it."""


def following(number: int) -> int:
    """Give the release to deploy next: a slot holds the one before the last, never that one."""
    return number % 3 + 1


def cut_at_call(board: VirtualBoard, monkeypatch: pytest.MonkeyPatch, now: int, calls: Calls
                ) -> bool:
    """Deploy the next release over `now`, cut off; then whole. Says which was in force between."""
    want = following(now)
    use(monkeypatch, want)
    with calls.patched(), contextlib.suppress(UnpluggedError, KeyboardInterrupt):
        deploy.deploy(board.port)
    if calls.count < calls.at:
        raise PastTheEndError
    up = restarted(board)
    assert up in (now, want)
    deploy.deploy(board.port)
    assert restarted(board) == want
    assert deploy.deploy(board.port).copied == []
    return up == want


def each_call(board: VirtualBoard, monkeypatch: pytest.MonkeyPatch, all_calls: list[Calls]
              ) -> None:
    now = 1
    seen = set()
    for calls in all_calls:
        try:
            seen.add(cut_at_call(board, monkeypatch, now, calls))
        except PastTheEndError:
            assert calls.at >= all_calls[-1].at - 2, "their number hardly differs"
            break
        now = following(now)
    assert seen == {True, False}, "both before and after the moment it comes into force"


def test_host_that_goes_away_leaves_one_release_whole(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = has_one(make, monkeypatch)
    count = count_calls(board, monkeypatch)
    chance = random.Random(7)
    each_call(board, monkeypatch, [
        Calls(moment, how, end)
        for moment, (how, end) in zip(
            (chance.randint(2, count // 2), count - 8, count - 1),
            MANNERS, strict=True)
    ])  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_host_that_goes_away_at_each_call(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    board = has_one(make, monkeypatch, flash_costs=FREE)
    moments = range(1, count_calls(board, monkeypatch) + 1)
    each_call(board, monkeypatch, [
        Calls(moment, how, end) for moment, (how, end) in itertools.product(moments, MANNERS)
    ])  # fmt: skip


def test_ctrl_c_lets_the_old_release_run_on(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    board = has_one(make, monkeypatch)
    use(monkeypatch, 2)
    mark = board.console.mark()
    with Calls(25, "middle", KeyboardInterrupt).patched(), pytest.raises(KeyboardInterrupt):
        deploy.deploy(board.port)
    assert runs(board, mark) == 1


def test_deploy_that_comes_while_the_board_starts_goes_through(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = has_one(make, monkeypatch)
    for number in (2, 3):
        use(monkeypatch, number)
        with BoardLink(board.port) as link:
            deploy.put(link, deploy.contents(link, [], ""))
            link.restart()  # and nobody waits for it
        assert deploy.deploy(board.port).copied == []
        assert restarted(board) == number


def operations(board: VirtualBoard, monkeypatch: pytest.MonkeyPatch, want: int) -> int:
    """Deploy `want`; gives how many writes and erases of the flash that took."""
    before = board.flash.operations()
    use(monkeypatch, want)
    deploy.deploy(board.port)
    return board.flash.operations() - before


def power_on_after_cut(board: VirtualBoard) -> int | None:
    """Give what runs after the power came back; None where the board has nothing to run."""
    board.power_cut()
    board.flash.disarm()
    mark = board.console.mark()
    board.power_on()
    found = board.wait(rf"{PARTS}|^>>> |MicroPython v", after=mark)
    return runs(board, mark) if found[0].startswith("parts") else None


def each_operation(
    board: VirtualBoard, monkeypatch: pytest.MonkeyPatch, moments: list[int], chance: random.Random
) -> None:
    now, olds = 1, 0
    for moment in moments:
        want = following(now)
        use(monkeypatch, want)
        board.cut_after(moment, chance.random())
        deploy_until_off(board, monkeypatch)
        up = power_on_after_cut(board)
        assert up in (now, want)
        olds += up == now
        deploy.deploy(board.port)
        assert restarted(board) == want
        now = want
    assert olds >= len(moments) - 2, "NVS, which chooses, is none of these operations"


def test_power_cut_at_any_moment_leaves_one_release_whole(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = has_one(make, monkeypatch)
    count = [operations(board, monkeypatch, number) for number in (2, 3, 1)][-1]
    chance = random.Random(4)
    moments = [chance.randint(1, count // 2), chance.randint(count // 2, count), count - 1]
    each_operation(board, monkeypatch, moments, chance)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_power_cut_at_each_flash_operation(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    board = has_one(make, monkeypatch, flash_costs=FREE)
    count = [operations(board, monkeypatch, number) for number in (2, 3, 1)][-1]
    each_operation(board, monkeypatch, list(range(1, count + 1)), random.Random(5))


def test_first_deploy_of_the_firmware_goes_on_where_the_power_was_cut(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole firmware on a flash that takes its time: reads 0.1 ms, erases 50 ms."""
    board = make(files={"boot.py": b"# the image's\n"}, pty=True, heap_kb=128)
    board.cut_after(250)
    assert deploy_until_off(board, monkeypatch)
    assert power_on_after_cut(board) is None
    done = deploy.deploy(board.port)
    assert 5 < done.kept < len(done.copied) + done.kept - 5, "some were written before the cut"
    assert done.alive.startswith("config.json: missing")


@pytest.mark.slow
def test_board_that_takes_long_over_its_old_swap_is_waited_for(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its old boot.py ends 40 renamings at each start that is not broken off: 100,000 reads."""
    old = {**firmware.collect(), "boot.py": OLD_BOOT}
    new = {path: data + b"\n" if path.endswith(".mpy") else data for path, data in old.items()}
    board = make(files=in_its_swap(old, new), pty=True, heap_kb=128)
    board.power_cut()  # it came too far
    board.install(in_its_swap(old, new))
    work = board.flash.work()
    board.power_on()
    done = deploy.deploy(board.port)
    assert (board.flash.work() - work).reads > 60_000
    assert done.alive.startswith("config.json: missing")
    board.power_cut()
    roots = {path.split("/")[0] for path in board.list_files()}
    assert roots == {"a", "boot.py", "main.py"}


# The first deploy, and the move of a board of before slots: each from a copy of one flash.

FIRST = {"boot.py": b"# as the image makes it\n"}
STATES = {
    "bare": (FIRST, None),
    "before slots": (before_slots(1), 1),
    "with leftovers": (
        {**before_slots(1), "boot.py.new": b"1 / 0", "node/a.mpy.new": b"x", "swap.py.new": b"/"},
        1,
    ),
    "in its swap": (before_slots(1, swap_from=3), 1),
}


class Copies:
    """Boards whose flash begins as one that was prepared."""

    def __init__(self, make: Make, folder: Path, files: dict[str, bytes], **more: Any) -> None:
        self.make, self.folder, self.files, self.more = make, folder, files, more
        self.count = 0

    def next(self) -> VirtualBoard:
        self.count += 1
        name = f"copy{self.count}"
        for end in ("", ".wear"):
            if self.count > 1:
                shutil.copy(self.folder / f"copy1.img{end}", self.folder / f"{name}.img{end}")
        board = self.make(name=name, files=self.files if self.count == 1 else None, pty=True,
                          **self.more)  # fmt: skip
        if self.count == 1:
            board.power_cut()  # that one is only copied
            return self.next()
        return board


def moved_over(board: VirtualBoard) -> None:
    """See that nothing of before slots is left, and release 2 runs."""
    assert restarted(board) == 2
    board.power_cut()
    roots = {path.split("/")[0] for path in board.list_files()}
    assert roots <= {"a", "b", "boot.py", "main.py"}, roots
    assert {"a", "b"} & roots


def cut_move(board: VirtualBoard, monkeypatch: pytest.MonkeyPatch, old: int | None, moment: int,
             part: float) -> None:
    board.cut_after(moment, part)
    deploy_until_off(board, monkeypatch)
    assert power_on_after_cut(board) in (old, 2)
    deploy.deploy(board.port)
    moved_over(board)


@pytest.mark.parametrize("state", list(STATES))
def test_board_is_moved_over_also_where_the_power_is_cut(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, state: str
) -> None:
    files, old = STATES[state]
    copies = Copies(make, tmp_path, files)
    board = copies.next()
    count = operations(board, monkeypatch, 2)
    moved_over(board)
    chance = random.Random(state)
    cut_move(copies.next(), monkeypatch, old, chance.randint(1, count), chance.random())


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("state", list(STATES))
def test_power_cut_at_each_flash_operation_of_the_move(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, state: str
) -> None:
    files, old = STATES[state]
    copies = Copies(make, tmp_path, files, flash_costs=FREE)
    count = operations(copies.next(), monkeypatch, 2)
    chance = random.Random(state)
    for moment in range(1, count + 1):
        board = copies.next()
        cut_move(board, monkeypatch, old, moment, chance.random())
        board.stop()


@pytest.mark.slow
@pytest.mark.timeout(2400)
@pytest.mark.parametrize("state", list(STATES))
def test_host_that_goes_away_at_each_call_of_the_move(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, state: str
) -> None:
    files, old = STATES[state]
    copies = Copies(make, tmp_path, files, flash_costs=FREE)
    count = count_calls(copies.next(), monkeypatch, (2,))
    for moment, (how, end) in itertools.product(range(1, count + 1), MANNERS):
        board = copies.next()
        calls = Calls(moment, how, end)
        with calls.patched(), contextlib.suppress(UnpluggedError, KeyboardInterrupt):
            deploy.deploy(board.port)
        assert power_on_after_cut(board) in (old, 2)
        deploy.deploy(board.port)
        moved_over(board)
        board.stop()
