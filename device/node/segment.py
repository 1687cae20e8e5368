"""What the ring seldom does: give a segment away or set it aside, note boots.

Loaded for that only.
"""

from struct import pack_into

from micropython import const

_FORMAT = const(1)  # these as in node.recover
_BOOT_BYTES = const(20)
_BOOTS = const(6)


def discard(ring):
    """Go on without the oldest segment."""
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


def skip(ring, seq):
    """Go on behind seq in the oldest segment; set it aside if that cannot be read."""
    seg, buf = ring._seg, ring._scratch
    while seg[2] <= seq:
        got, pos = ring._read(seg[4], len(buf)), 0
        while seg[2] <= seq and pos < got:
            pos += buf[pos] + 1
            seg[2] += 1
        if not pos:
            seg[2] = seq + 1
            discard(ring)
            return
        seg[4] += pos


def drop(ring):
    """Give the oldest segment away, and count it."""
    seg = ring._segment()
    if seg:
        ring._count_drop(seg[0], seg[1], seg[3] - seg[2])
        ring._next_segment()


def room(ring):
    """Flash is full: give the oldest segment away, if there is one, and move RAM there."""
    if ring._first_seg >= ring._end_seg:
        return False
    drop(ring)
    try:
        ring._save_shapes()  # what _spill() makes safe may need them
        ring._spill()
    except OSError:
        ring.errors += 1
        return False
    return True


def dump(ring):
    """Write what is known of boots that are not over: their zero of time, what was dropped."""
    boots, running = ring._boots, (ring.life, ring.boot)
    while len(boots) > _BOOTS:
        del boots[min([key for key in boots if key != running])]
    data = bytearray(1 + _BOOT_BYTES * len(boots))
    data[0] = _FORMAT
    pos = 1
    for (life, boot), (t0_ms, dropped) in boots.items():
        pack_into("<4sIqI", data, pos, life, boot, t0_ms, dropped)
        pos += _BOOT_BYTES
    try:
        ring.store.write("boots", data)
    except OSError:
        ring.errors += 1
