"""Records: what a sensor said at one moment, packed small and readable without the sensor.

    <length of the rest: u8> <shape: u8> <uptime: 40 bits> <values as JSON text, 0x1f between>

The names are most of a record's JSON and never change, so they are kept once, as a *shape*
(sensor name and value names), and a record of 58 bytes of JSON takes 19. The table of shapes lies
on flash beside the records, so they survive a changed sensor configuration. Shape 0 is the way
out when the table is full: the text is then the JSON itself.
"""

import json
from binascii import crc32
from struct import pack_into, unpack_from

from micropython import const

MAX_RECORD = const(248)  # bytes, with the length byte
_MAX_JSON = const(660)  # bytes, with the names: what fits beside the longest head and topic
_MAX_SHAPES = const(64)
_HEAD = const(7)  # length, shape, uptime
_RAW = const(0)


def _text(value):
    if value is True:
        return "true"
    if value is False:
        return "false"
    if value is None or value != value or value in (float("inf"), -float("inf")):
        return "null"  # JSON has no NaN
    if isinstance(value, (int, float)):
        return str(value)
    return json.dumps(value)


class Shapes:
    """The table of shapes; index 1 is the first.

    lost: the table that the records on flash point into is gone. None is given out then.
    """

    def __init__(self):
        self.clear()

    def index(self, name, keys):
        """Return the index of (sensor name, value names); learn it if there is room, else 0."""
        shape = (name,) + keys
        try:
            return self.table.index(shape) + 1
        except ValueError:
            pass
        if len(self.table) >= _MAX_SHAPES:
            return _RAW
        self.table.append(shape)
        self.dirty = True
        return len(self.table)

    def get(self, index):
        return self.table[index - 1]

    def dump(self):
        """Return the table and its sum as bytes, for flash; node.recover reads them."""
        text = json.dumps(self.table).encode()
        return text, b"%08x" % crc32(text)

    def clear(self):
        self.table = []
        self.dirty = self.lost = False


def encode(shapes, uptime_ms, name, keys, values):
    """Return one record as bytes. Raise ValueError if it is longer than MAX_RECORD, or would fit
    no batch with its names."""
    index = shapes.index(name, keys)
    if index == _RAW:
        pairs = []
        for i, key in enumerate(keys):
            pairs.append(json.dumps(key) + ":" + _text(values[i]))
        text = json.dumps(name) + ",{" + ",".join(pairs) + "}"
    else:
        text = "\x1f".join([_text(value) for value in values])
    body = text.encode()
    size = _HEAD + len(body)
    room = MAX_RECORD - size
    if index != _RAW:  # with its names it must fit a batch
        room = min(room, _MAX_JSON - size - len(name) - sum([len(key) + 3 for key in keys]))
    if room < 0:
        raise ValueError("record is %d bytes too long" % -room)
    record = bytearray(size)
    high, low = (uptime_ms >> 32) & 0xFF, uptime_ms & 0xFFFFFFFF
    pack_into("<BBBI", record, 0, size - 1, index, high, low)
    record[_HEAD:] = body
    return record


def render(shapes, data, at):
    """Return the record at data[at] as its JSON fragment (bytes). Raise LookupError or ValueError
    if its shape is unknown or it is damaged."""
    if data[at] < _HEAD - 1:
        raise ValueError
    size, index, high, low = unpack_from("<BBBI", data, at)
    body = bytes(data[at + _HEAD : at + 1 + size])
    uptime = b"[%d," % ((high << 32) | low)
    if index == _RAW:
        text = uptime + body + b"]"
        if body[:1] != b'"' or body[-1:] != b"}":
            raise ValueError
        json.loads(text)
        return text
    shape = shapes.get(index)
    values = body.split(b"\x1f")
    if len(values) != len(shape) - 1:
        raise ValueError("record does not fit its shape")
    parts = [uptime, json.dumps(shape[0]).encode(), b",{"]
    for i, value in enumerate(values):
        if i:
            parts.append(b",")
        parts.append(json.dumps(shape[i + 1]).encode())
        parts.append(b":")
        json.loads(value)  # a damaged one would spoil the batch, which would then go out for ever
        parts.append(value)
    parts.append(b"}]")
    return b"".join(parts)


def build(ring, out, now_ms):
    """Write the oldest records as one batch, the device contract's JSON, into out.

    now_ms: the uptime [ms]. Returns (bytes used, life, boot, last seq), or None if there is
    nothing to send. A record that cannot be read goes out with its name and values null, so that
    seq keeps no hole.
    """
    found = ring.oldest()
    if found is None:
        return None
    life, boot, seq, dropped, t0_ms, data = found
    if life == ring.life and boot == ring.boot:
        when = '"%s":%d,' % ("now", now_ms)
    else:
        when = "" if t0_ms is None else '"%s":%d,' % ("t0", t0_ms)
    head = '{"v":1,"life":"%02x%02x%02x%02x","boot":%d,"seq":%d,"low":%d,"drop":%d,%s"recs":[' % (
        life[0], life[1], life[2], life[3], boot, seq, seq, dropped, when)  # fmt: skip
    used = _put(out, 0, head.encode())
    pos, last, limit = 0, seq - 1, len(out) - 2
    while pos < len(data) and pos + data[pos] < len(data):
        try:
            text = render(ring.shapes, data, pos)
        except (ValueError, LookupError):
            ring.corrupt += 1
            text = b'[0,"unreadable",{}]'
        comma = 1 if last >= seq else 0
        if used + comma + len(text) > limit:
            if comma:
                break
            ring.corrupt += 1  # it fits no batch, and would be in the way for ever
            text = text[: text.find(b",")] + b',"unreadable",{}]'
        if comma:
            out[used] = 44
        used = _put(out, used + comma, text)
        pos += data[pos] + 1
        last += 1
    if last < seq:
        return None
    ring.given(last, pos)
    used = _put(out, used, b"]}")
    return used, life, boot, last


def _put(out, at, data):
    end = at + len(data)
    out[at:end] = data
    return end
