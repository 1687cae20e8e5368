"""A batch of records as the device contract's JSON."""

from node.records import render


def build(ring, out, now_ms):
    """Write the oldest records as one batch into out.

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
            break
        if comma:
            out[used] = 44
        used = _put(out, used + comma, text)
        pos += data[pos] + 1
        last += 1
    if last < seq:
        return None
    used = _put(out, used, b"]}")
    return used, life, boot, last


def _put(out, at, data):
    end = at + len(data)
    out[at:end] = data
    return end
