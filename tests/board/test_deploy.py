"""Deploying: only what changed, all at once or not at all, and one clear line for each failure."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tools import board_link, boards, deploy, firmware
from tools.board_errors import FullError, LinkError, PortError, SilentError, UnpluggedError
from tools.board_link import BoardLink
from tools.virtual import VirtualBoard

Make = Callable[..., VirtualBoard]

CONFIG = {
    "device": "greenhouse-1",
    "wifi": {"ssid": "lab", "password": "secret"},
    "gateway": {"host": "127.0.0.1", "port": 1},
    "sensors": [{"kind": "dht22", "name": "air", "pin": 4}],
}


def version(number: int) -> dict[str, bytes]:
    """Make a firmware whose parts say which one they belong to."""
    boot = (firmware.FOLDER / "boot.py").read_bytes().split(b"\ntry:\n    from node")[0]
    main = f"""
from node import a, b
print("tidegate {number} x life 0 boot 1")
print("parts", {number}, a.N, b.N)
"""
    part = f"N = {number}\n" + f"T = '{'x' * 3000}{number}'\n"
    files = {"node/a.py": part, "node/b.py": part, "node/__init__.py": ""}
    if number == 1:
        files["node/old.py"] = "OLD = 1"
    compiled = {
        name[:-3] + ".mpy": firmware.compile_source(text.encode(), name)
        for name, text in files.items()
    }
    return {**compiled, "boot.py": boot, "main.py": main.encode()}


def use(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    monkeypatch.setattr(firmware, "collect", lambda march="": version(number))


def with_first(make: Make, monkeypatch: pytest.MonkeyPatch) -> VirtualBoard:
    """Give a board with the first firmware; the next that is deployed is the second."""
    board = make("pass", pty=True)
    use(monkeypatch, 1)
    deploy.deploy(board.port)
    use(monkeypatch, 2)
    return board


def test_deploys_the_firmware_and_it_comes_up(make: Make) -> None:
    board = make(config=CONFIG, pty=True, heap_kb=128)
    done = deploy.deploy(board.port, board=boards.load("virtual"), kinds=["dht22", "ds18b20"])
    assert "/node/app.mpy" in done.copied
    assert "/lib/umqtt/simple.mpy" not in done.copied, "its image has umqtt"
    assert done.alive.startswith("tidegate ")
    assert " greenhouse-1 " in done.alive
    again = deploy.deploy(board.port)
    assert again.copied == []
    assert again.bytes == 0
    assert again.kept == len(done.copied)
    board.power_cut()
    have = board.list_files()
    assert {"/" + path for path in have} >= set(done.copied)
    assert not [path for path in have if path.endswith(".new") or path == "swap.py"]


def test_board_without_settings_says_so(make: Make) -> None:
    board = make("pass", pty=True, heap_kb=128)
    assert "provision" in deploy.deploy(board.port).alive


def test_only_what_changed_is_copied_and_what_is_gone_is_removed(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = make("pass", pty=True, files={"node/a.py": b"N = 'source hides compiled'"})
    use(monkeypatch, 1)
    deploy.deploy(board.port)
    board.wait("^parts 1 1 1$")
    use(monkeypatch, 2)
    done = deploy.deploy(board.port)
    assert done.copied == ["/main.py", "/node/a.mpy", "/node/b.mpy"]
    assert done.removed == ["/node/old.mpy"]
    board.wait("^parts 2 2 2$")


class CableError(UnpluggedError):
    """The test pulled the cable."""


def test_cable_pulled_at_any_file_leaves_the_old_firmware_running(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = with_first(make, monkeypatch)
    steps: list[str] = []
    deployed = 0

    def pull(path: str, _step: int) -> None:
        steps.append(path)
        if len(steps) == pull_at:
            raise CableError("pulled")

    for pull_at in range(1, 40):
        steps.clear()
        try:
            deploy.deploy(board.port, progress=pull)
            deployed = pull_at
            break
        except CableError:
            mark = board.console.mark()
            board.reset()
            board.wait("^parts 1 1 1$", after=mark)
    assert deployed > 4, "it was cut off at each step before it went through"
    board.wait("^parts 2 2 2$")


def test_power_cut_at_any_moment_leaves_one_firmware_whole(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = with_first(make, monkeypatch)
    before = board.flash.operations()
    deploy.deploy(board.port)
    operations = board.flash.operations() - before
    chance = random.Random(4)
    # More of them where it matters: near the end, when the files change places.
    moments = [chance.randint(1, operations) for _ in range(4)]
    moments += [operations - chance.randint(0, 16) for _ in range(10)]
    now, seen = 2, set()
    for moment in moments:
        want = 3 - now
        use(monkeypatch, want)
        board.cut_after(moment, chance.random())
        link: list[BoardLink] = []
        monkeypatch.setattr(
            deploy, "BoardLink", lambda port, link=link: link.append(BoardLink(port)) or link[0]
        )

        def run() -> None:
            with contextlib.suppress(LinkError, AttributeError, TypeError):
                deploy.deploy(board.port)

        thread = threading.Thread(target=run)
        thread.start()
        while thread.is_alive() and not board.wait_off(0.02):
            pass
        if link and link[0]._transport is not None:
            link[0]._transport.serial.close()  # the cable goes with the power
        thread.join()
        board.power_cut()
        board.flash.disarm()
        mark = board.console.mark()
        board.power_on()
        found = board.wait(r"^parts (\d) (\d) (\d)$", after=mark)
        assert found[1] == found[2] == found[3], "a mixture of two firmwares"
        seen.add(int(found[1]) == want)
        now = int(found[1])
    monkeypatch.undo()
    use(monkeypatch, now)
    assert deploy.deploy(board.port).alive.startswith(f"tidegate {now}")
    assert seen == {True, False}, "both before and after the moment it comes into force"


def test_swap_that_fails_stays_and_is_tried_again_at_the_next_start(make: Make) -> None:
    boot = (firmware.FOLDER / "boot.py").read_bytes().split(b"\ntry:\n    from node")[0]
    fails = b"""
import os, sys
class Os:
    remove = os.remove
    def rename(old, new):
        raise OSError(5)
if 'again' not in os.listdir('/'):
    open('/again', 'w').close()
    sys.modules['os'] = Os
"""
    swap = deploy._SWAP.format(new=["/gone.py", "/main.py"], old=["/gone.mpy", "/old.mpy"])
    board = make("print('old')", files={
        "boot.py": fails + boot, "swap.py": swap.encode(), "main.py.new": b"print('new')",
        "old.mpy": b"",
    })  # fmt: skip
    board.wait("^boot: OSError .*EIO")
    board.wait("^old$")
    board.reset()
    board.wait("^new$")
    board.power_cut()
    assert sorted(board.list_files()) == ["again", "boot.py", "main.py"]


def test_full_file_system_is_told_and_the_old_firmware_stays(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = make("pass", pty=True)
    use(monkeypatch, 1)
    deploy.deploy(board.port)
    board.power_cut()
    board.install({"filler": b"x"})
    board.serve([
        "vfs.mount(vfs.VfsLfs2(flash), '/')",
        "import os\nn = os.statvfs('/')[3] - 1\nb = bytes(4096)\n"
        "with open('/filler', 'wb') as f:\n    for _ in range(n):\n        f.write(b)\n",
    ])  # fmt: skip
    board.power_on()
    use(monkeypatch, 2)
    with pytest.raises(FullError, match="KB are needed"):
        deploy.deploy(board.port)
    monkeypatch.setattr(BoardLink, "free_bytes", lambda _self: 1 << 20)
    with pytest.raises(FullError, match="file system is full"):
        deploy.deploy(board.port)
    mark = board.console.mark()
    board.reset()
    board.wait("^parts 1 1 1$", after=mark)
    board.power_cut()
    assert not [path for path in board.list_files() if path.endswith(".new")]


def test_firmware_that_does_not_start_is_told(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    board = make("pass", pty=True)
    monkeypatch.setattr(firmware, "collect", lambda march="": {"main.py": b"1 / 0"})
    with pytest.raises(deploy.DeployError, match="does not start: ZeroDivisionError"):
        deploy.deploy(board.port)


def info(monkeypatch: pytest.MonkeyPatch, **said: object) -> None:
    plain = BoardLink.info

    def changed(self: BoardLink) -> object:
        import dataclasses

        return dataclasses.replace(plain(self), **said)  # type: ignore[arg-type]

    monkeypatch.setattr(BoardLink, "info", changed)


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ({"version": (1, 22, 2)}, "MicroPython 1.22.2 is too old, 1.23 or later"),
        ({"mpy": 5}, "reads .mpy version 5"),
        (
            {"platform": "esp32", "machine": "LOLIN_S2_MINI with ESP32-S2FN4R2"},
            "this is esp32s2, and ESP32-C3 Super Mini has esp32c3",
        ),
    ],
)
def test_wrong_board_is_told(
    make: Make, monkeypatch: pytest.MonkeyPatch, said: dict[str, object], line: str
) -> None:
    board = make("print('mine')", pty=True)
    info(monkeypatch, **said)
    with pytest.raises(deploy.DeployError, match=line) as caught:
        deploy.deploy(board.port, board=boards.load("esp32-c3-supermini"))
    assert "\n" not in str(caught.value)
    board.power_cut()
    assert list(board.list_files()) == ["main.py"]


def test_image_without_a_driver_is_told(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    board = make("pass", pty=True)
    monkeypatch.setitem(deploy.IN_IMAGE, "dht22", ("no_such_driver",))
    with pytest.raises(deploy.DeployError, match="no no_such_driver, which dht22 needs"):
        deploy.deploy(board.port, kinds=["dht22"])


def test_umqtt_is_brought_along_where_the_image_has_none(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = make("pass", pty=True, config=CONFIG)
    use(monkeypatch, 1)
    monkeypatch.setattr(BoardLink, "where", lambda _self, _module: None)
    assert "/lib/umqtt/simple.mpy" in deploy.deploy(board.port).copied


def test_port_that_is_not_there_or_taken_is_told(make: Make, tmp_path: Path) -> None:
    with pytest.raises(PortError, match="no such port"):
        deploy.deploy(str(tmp_path / "ttyUSB9"))
    board = make("pass", pty=True)
    with BoardLink(board.port), pytest.raises(PortError, match="in use by another program"):
        deploy.deploy(board.port)


def test_something_else_than_micropython_is_told(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board_link, "STOP_S", 0.5)
    board = make("pass", pty=True)
    board.power_cut()
    with pytest.raises(SilentError, match="no MicroPython answers"):
        deploy.deploy(board.port)


@pytest.mark.parametrize(
    ("machine", "chip"),
    [
        ("Generic ESP32 module with ESP32", "esp32"),
        ("LOLIN_S2_MINI with ESP32-S2FN4R2", "esp32s2"),
        ("Generic ESP32S3 module with ESP32S3", "esp32s3"),
        ("ESP32C3 module with ESP32C3", "esp32c3"),
        ("ESP32C6 module with ESP32C6", "esp32c6"),
        ("PYBv1.1 with STM32F405RG", ""),
    ],
)
def test_chip_is_read_from_what_the_board_says(machine: str, chip: str) -> None:
    from tools.board_code import Info

    assert Info((1, 26, 0), machine, 6, "esp32", "").chip == chip
