"""Runs scripts on the real MicroPython, as nobody where we are root."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

from tools import interpreter
from tools.debian import Tree

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


@lru_cache
def open_copy(folder: Path) -> Path:
    """Give a copy that an unprivileged user can read: root's project may lie in /root."""
    if os.getuid() != 0:
        return folder
    place = Path(tempfile.mkdtemp(prefix="tidegate-device-"))
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    place.chmod(0o755)
    return Path(shutil.copytree(folder, place / folder.name, symlinks=True))


class MicroPython:
    """Runs scripts of tests/device/mp on the real interpreter, as nobody where we are root."""

    def __init__(self, paths: list[Path], heap: str) -> None:
        self.paths = paths
        self._heap = heap

    def start(self, script: str, *args: str, heap: str | None = None) -> subprocess.Popen[str]:
        """Start a script; its output is a pipe of lines."""
        command = Tree(open_copy(interpreter.obtain().tree.root)).program("micropython")
        if os.getuid() == 0:
            command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command]
        place = open_copy(HERE / "mp")
        command += ["-X", f"heapsize={heap or self._heap}", str(place / script), *args]
        paths = ":".join([str(open_copy(path)) for path in self.paths])
        env = {"MICROPYPATH": paths + ":.frozen", "PATH": "/usr/bin:/bin"}
        return subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(self, script: str, *args: str, timeout_s: float = 50, heap: str | None = None) -> str:
        """Run a script to its end; return what it printed. Fails if it did not end well."""
        process = self.start(script, *args, heap=heap)
        try:
            output, _ = process.communicate(timeout=timeout_s)
        finally:
            process.kill()
        assert process.returncode == 0, output
        return output
