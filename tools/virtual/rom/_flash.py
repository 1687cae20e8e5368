# The flash chip: 4096-byte blocks in the file behind descriptor 4; what it did behind 5.
# Words of the counts file: 0 cut at this operation (0: never), 1 how many 1/1000 of it get
# done, 2 writes and erases so far, 3 reads so far; from word 4 on: erases of each block; then
# one that is not 0 while the chip takes its time, when Ctrl-C must wait (process.py).
# All of this is heap that an image does not need: so few names, such as MicroPython has, and
# nothing allocated in a read.
import struct
import time
from array import array
from _host import ask

_ERASED = b"\xff" * 128


class Flash:
    # value: what a read and an erase take [us], on top of what the host needs for them, and
    # what of that is still owed: a sleep overshoots by some 0.1 ms, so short ones are gathered.
    def __init__(self, blocks, value):
        self.blocks = blocks
        self.value = value
        self.file = open(4, "r+b")
        self.counts = open(5, "r+b")
        self.head = bytearray(12)
        self.word = array("I", (0,))

    def _step(self):
        # Counts one operation; gives 1000, or less if the power goes in the middle of it.
        head = self.head
        self.counts.seek(0)
        self.counts.readinto(head)
        cut, part, count = struct.unpack("<III", head)
        struct.pack_into("<I", head, 8, count + 1)
        self.counts.seek(8)
        self.counts.write(memoryview(head)[8:])
        return part if cut and count + 1 >= cut else 1000

    def count(self, at, which):
        # Counts a read or an erase, and lets it take its time.
        counts, word, value = self.counts, self.word, self.value
        counts.seek(at)
        counts.readinto(word)
        word[0] += 1
        counts.seek(at)
        counts.write(word)
        value[2] += value[which]
        if value[2] > 2000:
            at = 16 + 4 * self.blocks
            counts.seek(at)
            counts.write(b"\1")
            began = time.ticks_us()
            time.sleep_us(value[2])
            value[2] = max(-2000, value[2] - time.ticks_diff(time.ticks_us(), began))
            counts.seek(at)
            counts.write(b"\0")

    def readblocks(self, block, buf, offset=0):
        self.count(12, 0)
        self.file.seek(block * 4096 + offset)
        self.file.readinto(buf)

    def writeblocks(self, block, buf, offset=0):
        part = self._step()
        self.file.seek(block * 4096 + offset)
        if part < 1000:
            self.file.write(memoryview(buf)[: len(buf) * part // 1000])
            ask("power")
        self.file.write(buf)

    def ioctl(self, op, arg):
        if op == 4:
            return self.blocks
        if op == 5:
            return 4096
        if op == 6:
            part = self._step()
            self.file.seek(arg * 4096)
            for _ in range(32 * part // 1000):
                self.file.write(_ERASED)
            if part < 1000:
                ask("power")
            self.count(16 + 4 * arg, 1)
            return 0
        if op == 3:
            return 0
