"""What happens to a segment of the ring that is missing or damaged. Loaded for that only."""


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
