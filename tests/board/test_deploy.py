"""Deploying: only what changed, all at once or not at all, and one clear line for each failure."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from releases import restarted, use, version

from tools import board_link, boards, deploy, firmware
from tools.board_errors import FullError, PortError, SilentError
from tools.board_link import BoardLink
from tools.virtual import VirtualBoard

Make = Callable[..., VirtualBoard]

CONFIG = {
    "device": "greenhouse-1",
    "wifi": {"ssid": "lab", "password": "secret"},
    "gateway": {"host": "127.0.0.1", "port": 1},
    "sensors": [{"kind": "dht22", "name": "air", "pin": 4}],
}


def test_deploys_the_firmware_and_it_comes_up(make: Make) -> None:
    board = make(config=CONFIG, pty=True, heap_kb=128)
    done = deploy.deploy(board.port, board=boards.load("virtual"), kinds=["dht22", "ds18b20"])
    assert {"/a/node/app.mpy", "/boot.py", "/main.py"} <= set(done.copied)
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
    assert not [path for path in have if path.endswith(".next")]
    assert {path.split("/")[0] for path in have} - {"ring"} == {
        "a", "boot.py", "main.py", "config.json"}  # fmt: skip


def test_board_without_settings_says_so(make: Make) -> None:
    board = make("pass", pty=True, heap_kb=128)
    assert "provision" in deploy.deploy(board.port).alive


def test_only_what_changed_is_written_and_what_is_gone_is_removed(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = make("pass", pty=True, heap_kb=128)
    said: list[str] = []
    use(monkeypatch, 1)
    first = deploy.deploy(board.port, say=said.append)
    assert (first.slot, first.kept, len(first.copied)) == ("/a", 0, len(version(1)))
    board.wait("^parts 1 1 1$")
    sizes = {f"/a/{path}": len(data) for path, data in version(1).items()}
    lines = [line for line in said if re.match(r"\d+ of 7  /a/", line)]
    for number, line in enumerate(lines, 1):  # progress, a line for each file
        path = line.split("  ")[1]
        assert line == f"{number} of 7  {path}  {sizes.pop(path)} bytes"
    assert set(sizes) == {"/a/boot.py", "/a/main.py"}
    use(monkeypatch, 2)
    second = deploy.deploy(board.port)
    assert second.slot == "/b"
    assert "/b/node/same.mpy" in second.copied, "nothing was in that slot"
    board.wait("^parts 2 2 2$")
    use(monkeypatch, 3)
    third = deploy.deploy(board.port)
    assert third.slot == "/a"
    assert third.copied == ["/a/node/a.mpy", "/a/node/app.mpy", "/a/node/b.mpy", "/boot.py",
                            "/main.py"]  # fmt: skip
    assert third.removed == ["/a/node/old.mpy"]
    board.wait("^parts 3 3 3$")
    erases = sum(board.erases())
    again = deploy.deploy(board.port)
    assert (again.slot, again.copied, again.bytes) == ("/a", [], 0)
    assert sum(board.erases()) == erases, "nothing is written whose hash is equal"
    use(monkeypatch, 2)
    back = deploy.deploy(board.port)
    assert (back.slot, back.copied) == ("/b", ["/boot.py", "/main.py"]), "its slot has it whole"
    board.wait("^parts 2 2 2$", after=board.console.mark() - 3)


def test_source_that_would_hide_what_is_compiled_is_not_kept(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = make("pass", pty=True)
    use(monkeypatch, 1)
    deploy.deploy(board.port)
    with BoardLink(board.port) as link:
        link.write("/a/node/a.py", b"N = 7")
        link.mkdirs(["/b", "/b/node", "/b/node/a"])  # an empty folder would hide it too
    assert deploy.deploy(board.port).slot == "/b"
    board.wait("^parts 1 1 1$", after=board.console.mark() - 2)


def test_file_that_was_damaged_is_written_anew(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = make("pass", pty=True)
    use(monkeypatch, 1)
    deploy.deploy(board.port)
    with BoardLink(board.port) as link:
        link.write("/a/node/a.mpy", version(1)["node/a.mpy"][:-1] + b"?")
    assert deploy.deploy(board.port).slot == "/b"
    assert deploy.deploy(board.port).copied == []


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
    assert restarted(board) == 1
    board.power_cut()
    assert not [path for path in board.list_files() if path.startswith("b/")]


def test_firmware_that_does_not_start_is_told(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    board = make("pass", pty=True)
    bad = {**version(1), "node/app.mpy": firmware.compile_source(b"1 / 0", "node/app.py")}
    monkeypatch.setattr(firmware, "collect", lambda march="": bad)
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
    board = make("print('mine')", pty=True, config=CONFIG)
    monkeypatch.setitem(deploy.IN_IMAGE, "dht22", ("no_such_driver",))
    for kinds in (["dht22"], None):  # None: those in the settings on the board
        mark = board.console.mark()
        with pytest.raises(deploy.DeployError, match="no no_such_driver, which dht22 needs"):
            deploy.deploy(board.port, kinds=kinds)
        board.wait("^mine$", after=mark)  # what is there runs on


def test_umqtt_is_brought_along_where_the_image_has_none(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = make("pass", pty=True, config=CONFIG)
    use(monkeypatch, 1)
    monkeypatch.setattr(
        BoardLink, "where", lambda _self, module: None if module == "umqtt.simple" else "")
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
