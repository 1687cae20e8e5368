# What a virtual board runs first. Before anything else: the host's root goes out of sight.
import sys
import vfs

_folder = vfs.VfsPosix(sys.path[-1])  # MICROPYPATH: where this file lies
vfs.umount("/")
_size = _folder.stat("/rom.bin")[6]
try:
    # ROM costs an ESP32 no heap: the image goes into memory that is none of Python's.
    import ffi
    import uctypes

    _rom = uctypes.bytearray_at(ffi.open("libc.so.6").func("p", "malloc", "I")(_size), _size)
except (ImportError, OSError):
    _rom = bytearray(_size)
with _folder.open("/rom.bin", "rb") as _file:
    _file.readinto(_rom)
rom = vfs.VfsRom(_rom)
vfs.mount(rom, "/.rom")
sys.path[:] = ["", "/.rom", ".frozen", "/lib"]
