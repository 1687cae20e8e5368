# The board's ROM: shows itself to imports, mounts the flash, runs boot.py and main.py.
# "/" was unmounted by _start, which runs before this.
import sys
import vfs
from _start import rom

import builtins

_import = builtins.__import__
_depth = 0


def _see_rom(name, *rest):
    # What an image has built in is there for an import, and is no folder the firmware could list.
    global _depth
    if name in sys.modules:
        return _import(name, *rest)
    if not _depth:
        vfs.mount(rom, "/.rom")
    _depth += 1
    try:
        return _import(name, *rest)
    finally:
        _depth -= 1
        if not _depth:
            vfs.umount("/.rom")


vfs.umount("/.rom")
builtins.__import__ = _see_rom

import gc
import micropython as _real
import _flash
from _host import ask, quiet, tell


class _Micropython:  # the micropython module, with a kbd_intr that this port lacks
    def __getattr__(self, name):
        return getattr(_real, name)

    def kbd_intr(self, char):
        ask("kbd", char)


sys.modules["micropython"] = _Micropython()


def _file(name, names):
    # As a board runs boot.py and main.py: an error is shown and does not stop the board.
    try:
        open(name).close()
    except OSError:
        return True
    try:
        execfile(name, names)
    except SystemExit:
        ask("reset", "soft")
    except BaseException as error:
        sys.print_exception(error)
        return False
    return True


def _serve(flash):
    # What a flashing tool does at a bare board: pieces of Python, one at a time.
    names = {"flash": flash, "vfs": vfs}
    while True:
        code = ask("next")
        try:
            answer = [None, None]
            names["answer"] = answer
            exec(code, names)
        except Exception as error:
            answer[1] = repr(error)
        tell("done", answer[0], answer[1])


def _new_files(flash):
    # As an image does at its first start: an erased flash gets a file system, another is told.
    head = bytearray(64)
    for block in (0, 1):
        flash.readblocks(block, head)
        if head != b"\xff" * 64:
            print("The filesystem appears to be corrupted. If you had important data there,")
            print("you may want to make a flash snapshot to try to recover it.")
            tell("corrupt")
            return
    print("Performing initial setup")
    vfs.VfsLfs2.mkfs(flash)
    vfs.mount(vfs.VfsLfs2(flash), "/")
    with open("/boot.py", "w") as f:
        f.write("# This file is executed on every boot (including wake-boot from deepsleep)\n")


def run(names):
    """Be a board that got its power. names: what boot.py, main.py and the console share."""
    boot = ask("boot")
    flash = _flash.Flash(boot["blocks"], boot["value"])
    raw = boot["raw"]
    if boot["mode"] == "serve":
        _serve(flash)
    for module in ("_start", "_vboot", "_flash"):
        sys.modules.pop(module)
        names.pop(module, None)
    try:
        vfs.mount(vfs.VfsLfs2(flash), "/")
    except OSError:
        _new_files(flash)
    if boot["wire"]:
        try:
            with open("/config.json") as f:
                tell("config", f.read())
        except OSError:
            pass
    del boot
    gc.collect()
    tell("base", gc.mem_alloc(), gc.mem_alloc() + gc.mem_free())
    try:
        ask("kbd", 3)
        if _file("/boot.py", names) and not raw:
            _file("/main.py", names)
    except KeyboardInterrupt:  # pressed again while the first one was being shown
        pass
    quiet()
    try:
        import _repl
    except MemoryError:  # a chip's prompt needs no heap: here the firmware has to make room
        names.clear()
        for module in list(sys.modules):
            if module != "_host":
                del sys.modules[module]
        sys.modules["micropython"] = _Micropython()
        gc.collect()
        import _repl
    _repl.run(raw, names)
