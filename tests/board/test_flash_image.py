"""Writing an image: the real esptool and a chip in its loader; mpflash, which finds one."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from click.testing import CliRunner
from fake_chip import FakeChip

from tools import boards, cachedir, flash_image
from tools.board_cli import board as command

SIZE = 150_000  # of the image [bytes]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Give a file that could be an image: half of it compresses."""
    path = tmp_path / "firmware.bin"
    body = random.Random(5).randbytes(SIZE // 2) + b"tidegate" * (SIZE // 16)
    path.write_bytes(b"\xe9\x03\x02\x20" + body)
    return path


@pytest.mark.parametrize(
    ("board_id", "chip"),
    [("esp32-devkitc", "esp32"), ("lolin-s2-mini", "esp32s2"), ("esp32-c3-supermini", "esp32c3")],
)
def test_image_is_written_where_the_chip_boots(board_id: str, chip: str, image: Path) -> None:
    board = boards.load(board_id)
    steps: list[float] = []
    with FakeChip(chip) as there:
        flash_image.write(there.port, board, image, progress=steps.append)
        content, end = image.read_bytes(), board.image_offset + image.stat().st_size
        assert there.flash[board.image_offset : end] == content
        assert there.erased == 1
        before, after = there.flash[: board.image_offset], there.flash[end + 4096 :]
        assert set(before) | set(after) == {0xFF}, "nothing of before is left"
        assert there.baud == 460800
    assert steps == sorted(steps)
    assert len(steps) > 3
    assert steps[-1] == 100.0


def test_rest_of_the_flash_is_kept_if_asked_for(image: Path) -> None:
    with FakeChip("esp32") as there:
        words = ["image", "--port", there.port, "--board", "esp32-devkitc", "--file", str(image)]
        done = CliRunner().invoke(command, [*words, "--keep"])
        assert done.exit_code == 0, done.output
        assert f"{there.port}: the image is on the board, firmware.bin" in done.output
        assert there.erased == 0
        assert set(there.flash[2 << 20 :]) == {0xA5}, "the files on the board"


@pytest.mark.parametrize(
    ("fault", "line"),
    [
        ({"chip": "esp32c3"}, "the chip is ESP32-C3; choose another board with --board"),
        ({"chip": "esp32s2"}, "the chip is ESP32-S2; choose another board with --board"),
        ({"silent": True}, "the chip does not answer; hold BOOT, press RESET, and try again"),
        ({"worn": True}, "what was written reads back wrong"),
        ({"leaves_at": SIZE // 2}, "the board went away; is the cable in?"),
    ],
)
def test_failure_is_one_line(fault: dict[str, object], line: str, image: Path) -> None:
    with FakeChip(**fault) as there:  # type: ignore[arg-type]
        words = ["image", "--port", there.port, "--board", "esp32-devkitc", "--file", str(image)]
        done = CliRunner().invoke(command, words)
        assert done.exit_code == 1
        said = [text for text in done.stderr.splitlines() if text.startswith("tidegate: ")]
        assert len(said) == 1
        assert line in said[0]
        assert "Traceback" not in done.output
        if "chip" in fault or "silent" in fault:
            assert set(there.flash) == {0xA5}, "a wrong chip is left as it was"


def test_esptool_that_finds_no_port_is_told(tmp_path: Path) -> None:
    image = tmp_path / "i.bin"
    image.write_bytes(b"\xe9" + bytes(100))
    with pytest.raises(flash_image.ImageError, match="no such port") as caught:
        flash_image.write(str(tmp_path / "ttyUSB3"), boards.load("esp32-c3-supermini"), image)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        ("A fatal error occurred: This chip is ESP32-S2, not ESP32-C3. Wrong", "is ESP32-S2;"),
        ("Failed to connect to ESP32: No serial data received.", "hold BOOT"),
        ("Could not open /dev/ttyUSB0, the port is busy or doesn't exist.", "another program"),
        ("[Errno 13] Permission denied: '/dev/ttyUSB0', the port is busy", "dialout"),
        ("SerialException: device reports readiness to read but", "is the cable in"),
        ("Lost connection, retrying...\n[Errno 2] No such file or directory", "is the cable in"),
        ("something new\nthe last word\n", "the last word"),
    ],
)
def test_what_esptool_says_is_put_plainly(said: str, meaning: str) -> None:
    assert meaning in flash_image.explain(said)


def test_file_that_is_no_image_is_told(tmp_path: Path) -> None:
    board = boards.load("esp32-devkitc")
    wrong = tmp_path / "wrong.bin"
    wrong.write_bytes(b"PK\x03\x04")
    with pytest.raises(flash_image.ImageError, match="not an image"):
        flash_image.check(wrong, board)
    with pytest.raises(flash_image.ImageError, match="No such file"):
        flash_image.check(tmp_path / "nothing.bin", board)
    big = tmp_path / "big.bin"
    with big.open("wb") as file:
        file.write(b"\xe9")
        file.truncate(5 << 20)
    with pytest.raises(flash_image.ImageError, match="do not fit"):
        flash_image.check(big, board)



# Finding an image: mpflash needs the internet; how it is asked and understood does not.

NAMES = [
    "ESP32_GENERIC-20250911-v1.26.1.bin",
    "ESP32_GENERIC-v1.9.0.bin",
    "ESP32_GENERIC-SPIRAM-v1.27.0.bin",
    "ESP32_GENERIC_C3-v1.28.0.bin",
    "ESP32_GENERIC-v1.29.0-preview.55.bin",
    "ESP32_GENERIC-v1.28.0.app-bin",
]


def test_newest_image_is_chosen_and_no_variant(tmp_path: Path) -> None:
    assert flash_image.newest(tmp_path, "ESP32_GENERIC") is None
    for name in NAMES:
        (tmp_path / "esp32").mkdir(exist_ok=True)
        (tmp_path / "esp32" / name).touch()
    found = flash_image.newest(tmp_path, "ESP32_GENERIC")
    assert found
    assert found.name == "ESP32_GENERIC-20250911-v1.26.1.bin"
    assert flash_image.newest(tmp_path, "ESP32_GENERIC_C6") is None


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the folder for images, one of this test's own."""
    monkeypatch.setattr(cachedir, "root", lambda: tmp_path / "cache")
    return tmp_path / "cache" / "images"


def mpflash(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put an `mpflash` into the way that does what the script says."""
    folder.mkdir()
    program = folder / "mpflash"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(folder / "python"))


def test_image_that_mpflash_downloads_is_taken(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = 'cd "$MPFLASH_FIRMWARE" && mkdir esp32 && echo "$@" >"esp32/$3-v1.27.0.bin"'
    mpflash(tmp_path / "bin", monkeypatch, script)
    found = flash_image.find(boards.load("esp32-devkitc"))
    assert found == images / "esp32" / "ESP32_GENERIC-v1.27.0.bin"
    assert found.read_text() == "download --board ESP32_GENERIC --version stable\n"


def test_failing_download_is_one_line(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mpflash(tmp_path / "bin", monkeypatch, 'echo "10:00 | \N{CROSS MARK} no way out"')
    with pytest.raises(flash_image.ImageError, match=r"ESP32_GENERIC \(no way out\)") as caught:
        flash_image.find(boards.load("esp32-devkitc"))
    assert "\n" not in str(caught.value)


def test_without_mpflash_it_says_what_to_do(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(flash_image.ImageError, match="no image: download LOLIN_S2_MINI"):
        flash_image.find(boards.load("lolin-s2-mini"))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_mpflash_itself_without_a_network(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The real one, with a proxy that is not there: it is asked rightly, its failure is told."""

    def install(work: Path) -> None:
        venv.create(work, with_pip=True)
        pip = [str(work / "bin" / "python"), "-m", "pip", "install", "--quiet", "mpflash>=1.29"]
        subprocess.run(pip, check=True, timeout=280)

    monkeypatch.undo()  # kept in the project's cache
    there = cachedir.once("mpflash-1.29", install)
    monkeypatch.setattr(cachedir, "root", lambda: tmp_path / "cache")
    program = tmp_path / "mpflash"  # its own start would name the folder it was made in
    program.write_text(
        f"#!/bin/sh\nexec {there}/bin/python -c "
        "'import sys; from mpflash.cli_main import mpflash; sys.exit(mpflash())' \"$@\"\n"
    )
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    with pytest.raises(flash_image.ImageError, match=r"ESP32_GENERIC \(Could not connect"):
        flash_image.find(boards.load("esp32-devkitc"))
    assert (images / "mpflash.db").is_file(), "it was told which folder to use"
    assert os.environ.get("MPFLASH_FIRMWARE") is None
