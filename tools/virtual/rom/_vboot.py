# What a virtual board runs first. Before anything else: the host's root goes out of sight.
import sys
import vfs

_rom = vfs.VfsPosix(sys.path[-1])  # MICROPYPATH: where this file lies
vfs.umount("/")
sys.path[:] = ["", "/.rom", ".frozen", "/lib"]

import builtins

_import = builtins.__import__
_depth = 0


def _see_rom(name, *rest):
    # What an image has built in is there for an import, and is no folder the firmware could list.
    global _depth
    if name in sys.modules:
        return _import(name, *rest)
    if not _depth:
        vfs.mount(_rom, "/.rom")
    _depth += 1
    try:
        return _import(name, *rest)
    finally:
        _depth -= 1
        if not _depth:
            vfs.umount("/.rom")


builtins.__import__ = _see_rom

import gc
import micropython
from _host import ask, quiet, tell


class _Micropython:  # the micropython module, with a kbd_intr that this port lacks
    def __getattr__(self, name):
        return getattr(micropython, name)

    def kbd_intr(self, char):
        ask("kbd", char)


sys.modules["micropython"] = _Micropython()


def _file(name):
    # As a board runs boot.py and main.py: an error is shown and does not stop the board.
    try:
        open(name).close()
    except OSError:
        return True
    try:
        execfile(name)
    except SystemExit:
        ask("reset", "soft")
    except BaseException as error:
        sys.print_exception(error)
        return False
    return True


def _serve():
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


import _flash

_boot = ask("boot")
flash = _flash.Flash(_boot["blocks"])
sys.modules.pop("_vboot", None)
if _boot["mode"] == "serve":
    _serve()
try:
    vfs.mount(vfs.VfsLfs2(flash), "/")
except OSError as error:
    print("The filesystem appears to be corrupted or not there:", error)
    tell("corrupt")
gc.collect()
tell("base", gc.mem_alloc(), gc.mem_alloc() + gc.mem_free())
try:
    ask("kbd", 3)
    if _file("/boot.py") and not _boot["raw"]:
        _file("/main.py")
except KeyboardInterrupt:  # pressed again while the first one was being shown
    pass
quiet()
import _repl

_repl.run(_boot["raw"], globals())
