"""docs/boards.md as a newcomer reads it: every command is run, and says what stands there.

The board is a virtual one, the address is loopback's, and numbers may differ.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from tools import cachedir, mosquitto
from tools.board_cli import board
from tools.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "boards.md").read_text()
ADDRESS = "192.0.2.7"  # of the gateway, in the guide
LIMIT_S = 40


def blocks(language: str) -> list[str]:
    """Give the guide's blocks of code in one language, "" for none."""
    pairs = re.findall(r"^```(\w*)\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    return [text for what, text in pairs if what == language]


def commands() -> list[tuple[str, list[str]]]:
    """Give each command of the guide and the lines that it prints, the virtual board's first."""
    found: list[tuple[str, list[str]]] = []
    for block in blocks(""):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:].partition("  #")[0].strip(), []))
            else:
                found[-1][1].append(line)
    found.sort(key=lambda entry: not entry[0].startswith("tidegate board virtual"))
    return found


def plain(line: str) -> str:
    """Give a line without what differs from run to run."""
    line = re.sub(r"/dev/pts/\d+", "PORT", line.rstrip())
    line = re.sub(r"\b(?=[0-9a-f]*[0-9])[0-9a-f]{8,}\b", "ID", line)
    return re.sub(r"-?\d+(\.\d+)*", "N", line)


class Desk:
    """A newcomer's terminals, in a folder of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        cache, programs = folder / "cache", folder / "bin"
        cache.mkdir()
        programs.mkdir()
        for entry in cachedir.root().iterdir():  # of virtual boards this desk sees its own only
            if entry.name != "boards":
                (cache / entry.name).symlink_to(entry)
        client = " ".join(mosquitto.find_program("mosquitto_sub"))
        (programs / "mosquitto_sub").write_text(f'#!/bin/sh\nexec {client} -p {self.port} "$@"\n')
        (programs / "mosquitto_sub").chmod(0o755)
        path = f"{programs}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.env = {**os.environ, "PATH": path, "TIDEGATE_CACHE": str(cache),
                    "WIFI_PASSWORD": "secret-8", "PYTHONUNBUFFERED": "1"}  # fmt: skip
        self.env.pop("PORT", None)
        self.children: list[subprocess.Popen[str]] = []

    def start(self, command: str) -> subprocess.Popen[str]:
        """Run a command; its output is a pipe of lines."""
        here = f"127.0.0.1:{self.port}" if command.startswith("tidegate") else "127.0.0.1"
        child = subprocess.Popen(
            ["sh", "-c", "exec " + command.removesuffix("&").replace(ADDRESS, here)],
            cwd=self.folder,
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.children.append(child)
        return child

    def lines(self, child: subprocess.Popen[str]) -> Iterator[str]:
        """Give what it prints; one that prints nothing for too long is ended."""
        assert child.stdout
        while True:
            watch = threading.Timer(LIMIT_S, child.kill)
            watch.start()
            try:
                line = child.stdout.readline()
            finally:
                watch.cancel()
            if not line:
                return
            yield line.rstrip("\n")

    def run(self, command: str) -> list[str]:
        """Run a command to its end; give what it printed."""
        child = self.start(command)
        said = list(self.lines(child))
        assert child.wait() == 0, (command, said)
        return said

    def see(self, child: subprocess.Popen[str], wanted: list[str]) -> None:
        """Read until all of these lines have come, in their order."""
        seen: list[str] = []
        left = [plain(line) for line in wanted]
        for line in self.lines(child) if left else ():
            seen.append(line)
            if plain(line) == left[0]:
                left.pop(0)
            if not left:
                break
        assert not left, (left[0], seen)

    def close(self) -> None:
        """End what still runs."""
        for child in reversed(self.children):
            if child.poll() is None:
                child.terminate()
            try:
                child.wait(timeout=20)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    desk = Desk(tmp_path)
    yield desk
    desk.close()


@pytest.mark.timeout(180)
def test_the_guide_does_what_it_says(desk: Desk) -> None:
    config = blocks("toml")[0]
    assert "0.0.0.0:1883" in config
    (desk.folder / "tidegate.toml").write_text(
        config.replace("0.0.0.0:1883", f"127.0.0.1:{desk.port}")
    )
    (desk.folder / "ESP32_GENERIC-20250911-v1.26.1.bin").write_bytes(b"\xe9")
    for command, told in commands():
        wanted = [line for line in told if not line.startswith(("/dev/ttyUSB", "Wi-Fi password"))]
        if command.startswith("tidegate run"):
            child = desk.start(command)
            assert any("listening" in line for line in desk.lines(child))
        elif command.endswith("&") or command.startswith("mosquitto_sub"):
            desk.see(desk.start(command), wanted)
        elif command.endswith("logs"):
            logs = desk.start(command)
            next(desk.lines(logs))  # it listens
            desk.run("tidegate board do reset")
            desk.see(logs, wanted)
            logs.send_signal(signal.SIGINT)
            assert logs.wait(timeout=20) == 0
        else:
            said = [plain(line) for line in desk.run(command)]
            missing = [line for line in wanted if plain(line) not in said]
            assert not missing, (command, missing, said)


def test_readme_and_guide_use_options_that_there_are() -> None:
    text = GUIDE + (ROOT / "README.md").read_text().replace("\\\n", " ")
    used = re.findall(r"^[$ ]*tidegate board (\w+)(.*)$", text, re.MULTILINE)
    assert len(used) > 15
    for verb, rest in used:
        known = CliRunner().invoke(board, [verb, "--help"])
        assert known.exit_code == 0, verb
        for option in re.findall(r"(--[a-z-]+)", rest):
            assert option in known.output, (verb, option)
