"""At the start: find what the ring left on flash, and make it whole again after a power cut."""

import json
import os
from binascii import crc32
from struct import unpack_from

from micropython import const

_MAX_RECORD = const(248)  # these as in node.ring
_BLOCK = const(4096)
_BOOT_BYTES = const(20)
_FORMAT = const(1)
_SLOT_HEAD = const(16)
_SLOTS = const(64)
_MAX_SHAPES = const(64)  # as in node.records


def names(path):
    """Return the names of all files below path, for node.flash; make it if it is not there."""
    found = []
    try:
        for name in os.listdir(path[:-1]):
            if name.isdigit():
                found += os.listdir(path + name)
            else:
                found.append(name)
    except OSError:
        try:
            os.mkdir(path[:-1])
        except OSError:
            pass  # the first write says so
    return found


def load(ring):
    """Find the ring's files, and recover what they hold."""
    slots = []
    ring._first_seg = 0
    ring._end_seg = 1
    for name in ring.store.names():
        if name[:1] == "s" and name[1:].isdigit():
            number = int(name[1:])
            ring._end_seg = max(ring._end_seg, number + 1)
            ring._first_seg = min(ring._first_seg or number, number)
        elif name[:1] == "j" and name[1:].isdigit():
            slots.append(name)
    ring._first_seg = ring._first_seg or ring._end_seg
    if slots or ring._first_seg < ring._end_seg:  # else shapes and boots start anew
        _recover(ring, slots)


def _recover(ring, slots):
    """Read the tables, and turn the slots of earlier boots into segments.

    slots: the names of the slot files that are there.
    """
    store = ring.store
    data = bytearray(_SLOT_HEAD + _MAX_RECORD)
    try:
        table = bytearray(max(0, store.size("shapes")))
        store.read("shapes", 0, table)
        take_shapes(ring.shapes, bytes(table))
    except (OSError, ValueError, TypeError):
        ring.corrupt += 1
        ring.shapes.table = [()] * _MAX_SHAPES  # full of what no record fits
        ring.shapes.lost = True
    try:
        size = store.read("boots", 0, data)
        if size and data[0] == _FORMAT:
            for pos in range(1, size - _BOOT_BYTES + 1, _BOOT_BYTES):
                life, boot, t0_ms, dropped = unpack_from("<4sIqI", data, pos)
                ring._boots[(life, boot)] = [t0_ms, dropped]
    except OSError:
        ring.errors += 1
    boots = {}  # (life, boot): [(first, back, count, name), ...]
    for name in slots:
        try:
            size = store.read(name, 0, data)
            if not size:  # the power went between making the file and filling it
                _remove(ring, name)
                continue
            form, life, boot, first, back, count = unpack_from("<B4sIIHB", data, 0)
            if size < _SLOT_HEAD or form != _FORMAT:
                raise ValueError(name)
        except (OSError, ValueError):
            ring.corrupt += 1
            _remove(ring, name)
            continue
        boots.setdefault((life, boot), []).append((first, back, count, name))
    own = (ring.life, ring.boot)
    ends = _segment_ends(ring, set(list(boots) + [own]))
    for key in sorted(boots):
        found = sorted(boots[key])
        low = max(found[-1][0] - found[-1][1], ends.get(key, 1))
        try:
            _gather(ring, key, found, low, data)
        except OSError:
            ring.errors += 1
            for _first, _back, _count, name in found:  # keep them for the next boot to try
                if int(name[1:]) < _SLOTS:
                    ring._slot_last[int(name[1:])] = 0x3FFFFFFF
            continue
        ends[key] = max(ends.get(key, 1), found[-1][0] + found[-1][2])
        for _first, _back, _count, name in found:  # the newest last: it knows the lowest seq
            _remove(ring, name)
    if own in ends:  # the boot counter did not move: go on counting, a seq is never used twice
        ring._low = ring._safe_seq = ring._next = ends[own]


def take_shapes(shapes, data):
    """Take over what Shapes.dump() gave, joined. Raise ValueError, TypeError if it is not that."""
    text = data
    if data[-1:] != b"]":  # else from firmware that wrote no sum
        text = data[:-8]
        if data[-8:] != b"%08x" % crc32(text):
            raise ValueError
    shapes.table = [tuple(shape) for shape in json.loads(text)]


def _remove(ring, name):
    try:
        ring.store.remove(name)
    except OSError:
        ring.errors += 1


def _segment_ends(ring, keys):
    """Return {(life, boot): one above the highest seq that lies in a segment}, for those in keys.

    Segments lie in the order of boots: the newest of a boot is enough, and what is older than
    one of an earlier boot need not be read.
    """
    ends = {}
    number = ring._end_seg
    while number > ring._first_seg and keys:
        number -= 1
        try:
            seen = ring._read_head("s%d" % number)
        except OSError:
            seen = None
        if not seen:
            continue
        key = (seen[0], seen[1])
        if key in keys:
            keys.remove(key)
            ends[key] = seen[3]
        elif all(key[0] == life and key[1] < boot for life, boot in keys):
            break
    return ends


def _gather(ring, key, found, low, data):
    """Write the records of one boot's slots from seq low on, in order, as segments."""
    buf, used, start, seq = ring._buf, 0, 0, 0
    limit = min(len(buf), _BLOCK - 64)
    for first, _back, count, name in found:
        size = ring.store.read(name, 0, data)
        pos = _SLOT_HEAD
        for number in range(first, first + count):
            step = data[pos] + 1
            if pos + step > size:
                ring.corrupt += 1
                break
            if number >= low and number >= seq:
                if used and (number != seq or used + step > limit):
                    ring._write_segment(key[0], key[1], start, seq - start, ring._buf[:used])
                    used = 0
                if not used:
                    start = number
                buf[used : used + step] = data[pos : pos + step]
                used += step
                seq = number + 1
            pos += step
    if used:
        ring._write_segment(key[0], key[1], start, seq - start, ring._buf[:used])
