"""The real MicroPython, unix port, and the umqtt that ESP32 images hold: fetched, not installed.

`python -m tools.interpreter` fetches what is missing and prints the command that runs it.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from tools import cachedir, debian
from tools.cachedir import Say, silent
from tools.debian import FetchError

PACKAGES = ("micropython",)
SUITE = "trixie"  # the first Debian whose micropython (1.25) runs our firmware
NEXT_SUITE = "sid"  # where a mirror lacks that suite, or is in the middle of copying it
UMQTT = "micropython-umqtt.simple"
UMQTT_VERSION = "1.3.4"  # needs nothing but socket, so it runs without an image's frozen modules


@dataclass(frozen=True)
class Interpreter:
    """A MicroPython unix port.

    bits: its word size; 32 has the ESP32's, so its heap fills as the ESP32's does.
    """

    tree: debian.Tree
    bits: int

    @property
    def command(self) -> list[str]:
        """Give the start of its command line."""
        return self.tree.program("micropython")

    def heap_option(self, heap_kb: int) -> list[str]:
        """Give the option that limits the heap to `heap_kb` [KiB] of a 32-bit board.

        A 64-bit build holds the same objects in twice the space, which is what `w` asks for.
        """
        return ["-X", f"heapsize={heap_kb}{'w' if self.bits == 64 else ''}k"]


def _bits(command: list[str]) -> int:
    """Run the interpreter once; gives its word size, 0 where this machine cannot run it."""
    probe = "import sys; print(64 if sys.maxsize > 1 << 32 else 32)"
    try:
        done = subprocess.run(
            [*command, "-c", probe], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return 0
    return int(done.stdout) if done.returncode == 0 else 0


def _candidates() -> list[tuple[str, str]]:
    """Give (suite, architecture) in the order to try: 32-bit where the machine may run it."""
    native = debian.native_architecture()
    asked = os.environ.get("TIDEGATE_MICROPYTHON_ARCH")
    wanted = [asked] if asked else ["i386", native] if native == "amd64" else [native]
    return [(suite, arch) for arch in wanted for suite in (SUITE, NEXT_SUITE)]


@lru_cache
def obtain(say: Say = silent) -> Interpreter:
    """Give the interpreter, fetched where it is not there: 32-bit where the machine can run it.

    TIDEGATE_MICROPYTHON_ARCH (dpkg's word) asks for another build. Raises FetchError.
    """
    for suite, architecture in _candidates():
        tree = debian.cached("micropython", PACKAGES, suite=suite, architecture=architecture)
        bits = _bits(tree.program("micropython")) if tree else 0
        if tree is not None and bits:
            return Interpreter(tree, bits)
    why = ""
    for suite, architecture in _candidates():
        try:
            fetched = debian.fetch(
                "micropython", PACKAGES, suite=suite, architecture=architecture, say=say
            )
            bits = _bits(fetched.program("micropython"))
            why = f"this machine does not run the {architecture} build of MicroPython"
        except FetchError as error:
            bits = 0
            why = str(error)
        if bits:
            return Interpreter(fetched, bits)
        say(why)
    raise FetchError(why)


def umqtt_simple(say: Say = silent) -> Path:
    """Give a folder with `umqtt/simple.py`, as an ESP32 image holds it. Raises FetchError."""

    def fill(work: Path) -> None:
        say(f"fetching {UMQTT} {UMQTT_VERSION}")
        archive = _download(f"{UMQTT}=={UMQTT_VERSION}", work)
        target = work / "umqtt" / "simple.py"
        target.parent.mkdir()
        with tarfile.open(archive) as tar:
            for member in tar.getmembers():
                if member.name.endswith("/umqtt/simple.py") and member.isfile():
                    source = tar.extractfile(member)
                    if source:
                        target.write_bytes(source.read())
        if not target.is_file():
            raise FetchError(f"{archive.name} holds no umqtt/simple.py")
        archive.unlink()

    return cachedir.once(f"umqtt.simple-{UMQTT_VERSION}", fill)


def _pip_index() -> list[str]:
    """Give the package index that pip is set up for, or none for the usual one."""
    asked = os.environ.get("PIP_INDEX_URL")
    if not asked:
        done = subprocess.run(
            [sys.executable, "-m", "pip", "config", "get", "global.index-url"],
            capture_output=True,
            text=True,
            check=False,
        )
        asked = done.stdout.strip().strip("'")
    return [asked] if asked.startswith(("http://", "https://", "file://")) else []


def _download(requirement: str, folder: Path) -> Path:
    """Download a source archive that pip refuses: it has no setup.py."""
    command = [sys.executable, "-m", "unearth", requirement, "--download", str(folder)]
    for index in _pip_index():
        command += ["--index-url", index]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise FetchError(f"cannot fetch {requirement}: {error}") from error
    found = list(folder.glob("*.tar.gz"))
    if not found:
        lines = (done.stderr or done.stdout).strip().splitlines() or ["no reason given"]
        raise FetchError(f"cannot fetch {requirement}: {lines[-1]}")
    return found[0]


def main() -> int:
    """Fetch all there is to fetch and print how to run it."""

    def say(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    try:
        found = obtain(say)
        umqtt_simple(say)
    except FetchError as error:
        say(f"error: {error}")
        return 1
    print(" ".join(found.command))
    return 0


if __name__ == "__main__":
    sys.exit(main())
