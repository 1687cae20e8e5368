"""The records that nobody has acknowledged yet: bounded, in RAM and on flash.

A record is *safe* once it is on flash, and only then is it told and sent. Where it lies:

    RAM       the newest records, packed one after the other
    slots     j0 ...: the safe part of what is in RAM, some records a file. A file of at most 128
              bytes lies inside littlefs' directory block: rewriting one costs no block of its
              own. So the slot written last is written again, with the new records behind the
              old ones, until it is full, and a slot whose records are acknowledged is free
    segments  s1, s2 ...: when the slots or the RAM are full, all of RAM in one file of at most
              one block; taken from the lowest number on after the outage
    boots     of boots that are not over for the gateway: the UTC of uptime zero, what was dropped

Rules:
- Within a boot seq has no holes, and segments come before RAM. The oldest segment goes first.
- A slot says the lowest seq that RAM held when it was written ("back"): what lies below in other
  slots was acknowledged or is in a segment. So an acknowledgement writes nothing.
- After a power cut the slots are made into a segment. A record can be found twice then (slot and
  segment) and is taken once; a record acknowledged just before the cut may come again, under its
  old name (life, boot, seq), which the gateway drops.
- A write either happens or not: littlefs shows a file's old content until it is closed.
- littlefs checks its directories, and so the slots, but not the blocks of files: a segment has
  sums of its own. One that is damaged is set aside, and its records count as dropped.
"""

from array import array
from binascii import crc32
from struct import pack_into, unpack_from

from micropython import const

from node import once
from node.records import Shapes, encode

# const() names with a _ cost no heap; node.recover has its own of some of these.
_MAX_RECORD = const(248)  # as in node.records
_BLOCK = const(4096)
_SLOTS = const(64)
_SLOT_HEAD = const(16)  # format, life, boot, first seq, back, count
_SLOT_BYTES = const(128)  # the longest file that littlefs keeps inside its directory
_SEG_HEAD = const(25)  # format, life, boot, first seq, count, bytes, sum of these, of the head
_SEG_FORMAT = const(2)
_OLD_HEAD = const(17)  # of format 1: no sums
_FORMAT = const(1)
_NO_TIME = const(-1)
_LATE_MS = const(60000)  # longer than an acknowledgement takes
_ENOSPC = const(28)


class Ring:
    """Bounded store of records until they are acknowledged.

    store: reads and writes small files whole (node.flash.Store).
    life: 4 bytes. ram_bytes, flash_bytes: the bounds; flash is counted in whole blocks.
    told: called as told(life, boot, first seq, last seq) when records have become safe.
    """

    def __init__(self, store, life, boot, ram_bytes, flash_bytes, told=None):
        self.store = store
        self.life = life
        self.boot = boot
        self.shapes = Shapes()
        self.told = told
        self.errors = 0  # writes or reads of flash that failed
        self.corrupt = 0  # files that made no sense
        self.dropped = 0  # records lost to the bound since the start, of any boot
        self.volatile = False  # flash does not take writes: go on from RAM alone
        self._max_segments = max(1, flash_bytes // _BLOCK)
        self._buf = memoryview(bytearray(max(ram_bytes, 2 * _MAX_RECORD)))
        self._head = self._safe = self._tail = 0  # offsets: oldest, first unsafe, end
        self._low = self._safe_seq = self._next = 1  # the seq at each
        self._slot_last = array("I", [0] * _SLOTS)
        self._slot = [0, 0, 0]  # the slot written last; where in RAM, and with which seq it begins
        self._scratch = memoryview(bytearray(384))
        self._first_seg = self._end_seg = 1
        self._seg = None  # the oldest segment, see _read_head()
        self._boots = {}  # (life, boot): [t0_ms, dropped]
        once("recover").load(self)

    # -- taking records in

    def add(self, uptime_ms, name, keys, values):
        """Take one record; return its seq. Raise ValueError if it is too long."""
        if self.shapes.lost and self.held() == (0, 0) and max(self._slot_last) < self._low:
            self.shapes.clear()  # nothing on flash points into it any more
        record = encode(self.shapes, uptime_ms, name, keys, values)
        size = len(record)
        if self._tail + size > len(self._buf):
            self._compact()
        if self._tail + size > len(self._buf):
            self.commit(True)
        while self._tail + size > len(self._buf):  # flash does not take them
            self._drop_ram()
            self._compact()
        self._buf[self._tail : self._tail + size] = record
        self._tail += size
        self._next += 1
        return self._next - 1

    def commit(self, spill=False, one=False):
        """Make all records safe. Return False if flash does not take them, or not all are.

        spill: move all of RAM to segments, also what is safe or would find a slot.
        one: write one file at most; go on with the next call.
        """
        if self._safe == self._tail and not spill:
            return True
        first = self._safe_seq
        try:
            done = self._save_shapes() and one
            while not done and (spill or self._safe < self._tail):
                done = one
                if spill or not self._write_slot(None):
                    slot = None if spill else self._free_slot()
                    if slot is None:
                        self._spill()
                        break
                    self._write_slot(slot)
            self.volatile = False
        except OSError as error:
            self.errors += 1
            self.volatile = not (error.args[0] == _ENOSPC and once("segment").room(self))
        if self.told and self._safe_seq > first:
            self.told(self.life, self.boot, first, self._safe_seq - 1)
        return self._safe == self._tail

    def _write_slot(self, index):
        """Write what is not safe yet into a slot, as far as it takes it; say whether any was.

        index: None: into the one written last, behind what it holds, if that is still in RAM.
        """
        buf, size = self._scratch, _SLOT_HEAD
        start, first = self._safe, self._safe_seq
        last = index is None
        if last:
            index, start, first = self._slot
            if first < self._low:
                return False
        pos, seq = start, first
        while pos < self._tail:
            step = self._buf[pos] + 1
            if size > _SLOT_HEAD and size + step > _SLOT_BYTES:
                break
            buf[size : size + step] = self._buf[pos : pos + step]
            size += step
            pos += step
            seq += 1
        if last and seq == self._safe_seq:
            return False
        back = min(first - self._low, 0xFFFF)
        pack_into("<B4sIIHB", buf, 0, _FORMAT, self.life, self.boot, first, back,
                  seq - first)  # fmt: skip
        self.store.write("j%d" % index, self._scratch[:size])
        self._slot[:] = index, start, first
        self._slot_last[index] = seq - 1
        self._safe, self._safe_seq = pos, seq
        return True

    def _free_slot(self):
        for slot in range(_SLOTS):
            if self._slot_last[slot] < self._low:
                return slot
        return None

    def _save_shapes(self):
        dirty = self.shapes.dirty
        if dirty:
            self.store.write("shapes", *self.shapes.dump())
            self.shapes.dirty = False
        return dirty

    # -- segments

    def _spill(self):
        """Move all of RAM to segments. Raise OSError if flash does not take it."""
        while self._head < self._tail:
            pos, seq = self._head, self._low
            while pos < self._tail:
                step = self._buf[pos] + 1
                if pos + step - self._head > _BLOCK - _SEG_HEAD:
                    break
                pos += step
                seq += 1
            self._write_segment(self.life, self.boot, self._low, seq - self._low,
                                self._buf[self._head : pos])  # fmt: skip
            self._head, self._low = pos, seq
            if self._safe < pos:
                self._safe, self._safe_seq = pos, seq
        self._head = self._safe = self._tail = 0

    def _write_segment(self, life, boot, first, count, data):
        while self._end_seg - self._first_seg >= self._max_segments:
            once("segment").drop(self)
        head = bytearray(_SEG_HEAD)
        pack_into("<B4sIIHHI", head, 0, _SEG_FORMAT, life, boot, first, count, len(data),
                  crc32(data))  # fmt: skip
        pack_into("<I", head, _SEG_HEAD - 4, crc32(memoryview(head)[:-4]))
        self.store.write("s%d" % self._end_seg, head, data)
        self._end_seg += 1

    def _segment(self):
        """Return the oldest segment as _read_head() does, or None."""
        while self._seg is None and self._first_seg < self._end_seg:
            try:
                self._seg = self._read_head("s%d" % self._first_seg)
            except OSError:
                self.errors += 1
            if self._seg is None:  # a number that is missing, or a damaged head
                once("segment").discard(self)
        return self._seg

    def _read_head(self, name):
        """Return [life, boot, low, end, offset, end of data, sum of data or None, last seq that
        went out, offset behind it], or None."""
        buf = self._scratch
        if self.store.read(name, 0, buf[:_SEG_HEAD]) < _OLD_HEAD:
            return None
        form, life, boot, first, count, size, crc, own = unpack_from("<B4sIIHHII", buf, 0)
        at = _SEG_HEAD
        if form == _FORMAT:
            at, crc = _OLD_HEAD, None
        elif form != _SEG_FORMAT or own != crc32(buf[: _SEG_HEAD - 4]):
            return None
        return [life, boot, first, first + count, at, at + size, crc, 0, 0]

    def _whole(self, seg):
        """Say whether the oldest segment's data fits its sum; look only once."""
        wanted, seg[6] = seg[6], None
        if wanted is None:
            return True
        try:
            crc = self.store.crc("s%d" % self._first_seg, _SEG_HEAD, seg[5], self._scratch)
        except OSError:
            self.errors += 1
            return False
        return crc == wanted

    def _next_segment(self):
        self._seg = None
        try:
            self.store.remove("s%d" % self._first_seg)
        except OSError:
            self.errors += 1
        self._first_seg += 1

    # -- the bound

    def _drop_ram(self):
        step = self._buf[self._head] + 1
        if self._safe == self._head:
            self._safe += step
            self._safe_seq += 1
        self._head += step
        self._low += 1
        self._count_drop(self.life, self.boot, 1)

    def _count_drop(self, life, boot, count):
        self.dropped += count
        entry = self._boots.setdefault((life, boot), [_NO_TIME, 0])
        entry[1] += count
        if not self.volatile:
            once("segment").dump(self)

    def _compact(self):
        size = self._tail - self._head
        self._buf[:size] = self._buf[self._head : self._tail]
        self._safe -= self._head
        self._slot[1] -= self._head
        self._head, self._tail = 0, size

    # -- giving records out

    def held(self):
        """Return how many records of the running boot are in RAM, and how many segments lie
        on flash."""
        return self._next - self._low, self._end_seg - self._first_seg

    def oldest(self):
        """Return (life, boot, seq, dropped, t0_ms or None, bytes) of the oldest records that may
        be sent, where bytes is a memoryview of whole or cut records; None if there is nothing."""
        while True:
            seg = self._segment()
            if not seg:
                break
            if self._whole(seg):
                life, boot, seq = seg[:3]
                data = self._scratch[: self._read(seg[4], max(0, seg[5] - seg[4]))]
                if data and data[0] < len(data):  # else it ends before its records do
                    break
            once("segment").discard(self)
        if not seg:
            life, boot, seq = self.life, self.boot, self._low
            end = self._tail if self.volatile else self._safe
            if self._head >= end:
                return None
            data = self._buf[self._head : end]
        t0_ms, dropped = self._boots.get((life, boot), (_NO_TIME, 0))
        return life, boot, seq, dropped, None if t0_ms == _NO_TIME else t0_ms, data

    def _read(self, at, want):
        """Read at most `want` bytes of the oldest segment; return how many, 0 if it fails."""
        try:
            return self.store.read("s%d" % self._first_seg, at, self._scratch[:want])
        except OSError:
            self.errors += 1
            return 0

    def given(self, last, size):
        """Note that the records up to seq `last` went out: the first `size` bytes of oldest()."""
        if self._seg:
            self._seg[7:] = last, self._seg[4] + size

    def ack(self, life, boot, seq):
        """Drop the records of (life, boot) up to seq. Return how many those were."""
        gone = 0
        if life == self.life and boot == self.boot and seq >= self._next:
            return 0
        seg = self._segment()
        while seg and seg[0] == life and seg[1] == boot and seq >= seg[2]:
            if seq >= seg[3] - 1:
                gone += seg[3] - seg[2]
                self._next_segment()
                seg = self._segment()
                continue
            gone += seq + 1 - seg[2]
            if seq == seg[7]:
                seg[2], seg[4] = seq + 1, seg[8]
            else:
                once("segment").skip(self, seq)
            return gone
        if seg is None and life == self.life and boot == self.boot:
            while self._low <= seq:
                step = self._buf[self._head] + 1
                if self._head == self._safe:  # acknowledged before it was safe: the gateway has it
                    self._safe += step
                    self._safe_seq += 1
                self._head += step
                self._low += 1
                gone += 1
        return gone

    def learned_time(self, t0_ms, late=False):
        """Keep the UTC [ms] of this boot's uptime zero, for the time after a power cut.

        late: it was worked out when a message came, so it is too early by what that took: the
        latest of such zeros is the best, unless the gateway's clock went back by more than that.
        """
        entry = self._boots.setdefault((self.life, self.boot), [_NO_TIME, 0])
        off_ms = t0_ms - entry[0]
        if abs(off_ms) > 1000 and not (late and -_LATE_MS < off_ms < 0):
            entry[0] = t0_ms
            once("segment").dump(self)
