"""A littlefs on a RAM flash that counts its work and loses power: runs on MicroPython.

Import what a test needs first, then call format(): from then on `/` is this flash, nothing else.
"""

import vfs

BLOCK = 4096
READ_MS = 0.1  # these as in tools/virtual/flash.py
ERASE_MS = 50


class PowerCut(Exception):
    pass


class Flash:
    """A NOR flash: erase sets a block to 0xff, a write clears bits.

    cut_after: how many more writes and erases happen; the one after is torn (None: no cut).
    """

    def __init__(self, blocks=128, data=None):
        self.data = data or bytearray(b"\xff" * (blocks * BLOCK))
        self.blocks = blocks
        self.dead = False
        self.erases = 0
        self.reads = 0
        self.writes = 0
        self.bytes = 0
        self.cut_after = None
        self.torn = 0  # how much of the torn write lands, 0 to 255 of 256

    def readblocks(self, block, buf, offset=0):
        if self.dead:
            return
        self.reads += 1
        at = block * BLOCK + offset
        buf[:] = memoryview(self.data)[at : at + len(buf)]

    def ms(self):
        """Return what its reads and erases so far take on a chip."""
        return self.reads * READ_MS + self.erases * ERASE_MS

    def _step(self, size):
        """Return how many bytes of this step happen; raise after them if it is the last."""
        if self.cut_after is None:
            return size
        self.cut_after -= 1
        if self.cut_after >= 0:
            return size
        if self.cut_after == -1:
            return size * self.torn // 256
        return 0

    def again(self):
        """Return the same flash after the power is back. What holds on to this one (a file that
        was open, closed by the collector much later) cannot write any more."""
        self.dead = True
        return Flash(self.blocks, self.data)

    def writeblocks(self, block, buf, offset=0):
        if self.dead:
            return
        at = block * BLOCK + offset
        size = self._step(len(buf))
        view = memoryview(self.data)
        view[at : at + size] = memoryview(buf)[:size]
        self.writes += 1
        self.bytes += size
        if size < len(buf):
            raise PowerCut

    def ioctl(self, op, arg):
        if self.dead:
            return 0
        if op == 4:
            return self.blocks
        if op == 5:
            return BLOCK
        if op == 6:
            size = self._step(BLOCK)
            at = arg * BLOCK
            view = memoryview(self.data)
            for i in range(at, at + size, 256):
                view[i : i + 256] = b"\xff" * 256
            self.erases += 1
            if size < BLOCK:
                raise PowerCut
        return 0


def format(flash):
    """Make flash a fresh littlefs and the only file system there is."""
    vfs.VfsLfs2.mkfs(flash)
    umount("/")
    vfs.mount(vfs.VfsLfs2(flash), "/")


def remount(flash):
    """Mount flash anew, as after a power cut. Raise OSError if that does not work."""
    umount("/")
    vfs.mount(vfs.VfsLfs2(flash), "/")


def umount(path):
    try:
        vfs.umount(path)
    except OSError:
        pass
