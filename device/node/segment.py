"""The oldest segment of the ring: looked for and checked, or set aside. Loaded for that only."""

from binascii import crc32
from struct import unpack_from

from micropython import const

_HEAD = const(25)  # as in node.ring
_FORMAT = const(2)
_OLD_HEAD = const(17)  # of format 1, which firmware before the sums wrote
_OLD_FORMAT = const(1)


def find(ring):
    """Let ring._seg be the oldest segment that is whole, if there is one."""
    while ring._seg is None and ring._first_seg < ring._end_seg:
        name = "s%d" % ring._first_seg
        good = False
        try:
            seen = read(ring, name)
            if seen:
                life, boot, first, count, at, size, wanted = seen
                ring._seg = [life, boot, first, first + count, at, at + size]
                good = wanted is None or _sum(ring, name, at) == wanted
        except OSError:
            ring.errors += 1
        if not good:  # also a number that is missing
            discard(ring)


def read(ring, name):
    """Return (life, boot, first seq, count, where its data begins, bytes of it, its sum or None)
    of a segment; None if there is none or its head is damaged. Raise OSError."""
    buf = ring._scratch
    got = ring.store.read(name, 0, buf[:_HEAD])
    if got < _OLD_HEAD:
        return None
    form, life, boot, first, count, size = unpack_from("<B4sIIHH", buf, 0)
    at, wanted = _OLD_HEAD, None
    if form == _FORMAT and got == _HEAD:
        at = _HEAD
        wanted, own = unpack_from("<II", buf, _OLD_HEAD)
        if own != crc32(buf[: _HEAD - 4]):
            return None
    elif form != _OLD_FORMAT:
        return None
    if ring.store.size(name) != at + size:
        return None
    return life, boot, first, count, at, size, wanted


def _sum(ring, name, at):
    """Return the sum of a segment's data."""
    crc = 0
    while True:
        got = ring.store.read(name, at, ring._scratch)
        if not got:
            return crc
        crc = crc32(ring._scratch[:got], crc)
        at += got


def discard(ring):
    """Go on without the oldest segment, which is missing or damaged."""
    name = "s%d" % ring._first_seg
    seg = ring._seg
    ring._seg = None
    ring._first_seg += 1
    try:
        size = ring.store.size(name)
        if size > 0:
            ring.corrupt += 1
            ring.store.rename(name, "bad")
        elif size == 0:  # the power went between making the file and filling it
            ring.store.remove(name)
    except OSError:
        ring.errors += 1
    if seg:
        ring._count_drop(seg[0], seg[1], seg[3] - seg[2])
