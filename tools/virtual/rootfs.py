"""The folder that is all a virtual board can see: an interpreter, its libraries, its "ROM".

It holds what an ESP32 image has built in or frozen, compiled; nothing of it is written later.
"""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from tools import cachedir, firmware, interpreter
from tools.cachedir import Say, silent
from tools.interpreter import Interpreter
from tools.virtual import romfs

ROM = Path(__file__).resolve().parent / "rom"


@dataclass(frozen=True)
class Rootfs:
    """A root for virtual boards.

    command: what to run in it, before its options; `{}` stands for the root from inside.
    """

    path: Path
    interpreter: Interpreter

    @property
    def command(self) -> list[str]:
        """Give the start of the interpreter's command line, as seen from inside."""
        return ["{}/ld.so", "--library-path", "{}/lib", "{}/micropython"]


def _rom_files(umqtt: Path) -> dict[str, Path]:
    """List what goes into the ROM: name inside, source."""
    files = {path.name: path for path in sorted(ROM.glob("*.py"))}
    files["umqtt/simple.py"] = umqtt / "umqtt" / "simple.py"
    return files


def prepare(say: Say = silent) -> Rootfs:
    """Give the root for virtual boards, made where it is not there. Raises FetchError."""
    found = interpreter.obtain(say)
    files = _rom_files(interpreter.umqtt_simple(say))
    digest = hashlib.sha256(found.tree.root.name.encode())
    for name, source in files.items():
        digest.update(name.encode() + source.read_bytes())
    for module in (__file__, romfs.__file__, firmware.__file__):
        digest.update(Path(str(module)).read_bytes())

    def fill(work: Path) -> None:
        say("compiling what a virtual board has built in")
        shutil.copy(found.tree.linker, work / "ld.so")
        shutil.copy(found.tree.find("micropython"), work / "micropython")
        (work / "lib").mkdir()
        for folder in found.tree.library_path.split(":"):
            for library in Path(folder).glob("*.so*"):
                if library.is_file():
                    shutil.copy(library, work / "lib" / library.name)
        compiled = {
            f"{name[:-3]}.mpy": firmware.compile_source(source.read_bytes(), name)
            for name, source in files.items()
        }
        (work / "rom").mkdir()
        (work / "rom" / "_start.mpy").write_bytes(compiled.pop("_start.mpy"))
        (work / "rom" / "rom.bin").write_bytes(romfs.image(compiled))
        for path in work.rglob("*"):
            path.chmod(0o755 if path.is_dir() or path.parent == work else 0o644)

    folder = cachedir.once(f"board-root-{digest.hexdigest()[:12]}", fill)
    return Rootfs(folder, found)
