"""Count what the ring's work costs in reads and erases on a real littlefs, beside a firmware.

Prints one JSON object a phase: {what: [how often, reads, erases, the dearest one in ms]}. What a
step of the board's loop does at most is one commit (with the reading before it), one batch built
or one acknowledgement; "spill" is a commit that wrote a segment.
argv: records of the first outage, records of the last one, bound of the ring [blocks].
"""

import json
import os
import sys

import node.flash
import node.records
import node.recover
import node.ring
import node.segment

import flash_rig

# there are no files to import from after the umount
node.ring.once = node.flash.once = lambda name: getattr(node, name)
KEYS = ("temperature_c", "humidity_pct")
flash = flash_rig.Flash(512)
flash_rig.format(flash)
for folder in "a", "b":  # two releases, as on a board
    os.mkdir("/" + folder)
    for number in range(42):
        with open("/%s/module%d.mpy" % (folder, number), "wb") as f:
            f.write(bytes(1000 + number * 60))
for name in "boot.py", "main.py", "config.json":
    with open("/" + name, "wb") as f:
        f.write(bytes(400))
costs = {}
now = 0


def count(what, do, *args):
    """Do it and count it; what: its name, or a function that tells it afterwards."""
    reads, erases = flash.reads, flash.erases
    result = do(*args)
    reads, erases = flash.reads - reads, flash.erases - erases
    entry = costs.setdefault(what() if callable(what) else what, [0, 0, 0, 0])
    entry[0] += 1
    entry[1] += reads
    entry[2] += erases
    entry[3] = max(entry[3], round(reads * flash_rig.READ_MS + erases * flash_rig.ERASE_MS))
    return result


def start(boot):
    """Begin a boot: the image mounts the flash, the firmware its ring."""
    flash_rig.remount(flash)

    def ring():
        store = node.flash.Store("/ring")
        return node.ring.Ring(store, b"life", boot, 2048, 4096 * int(sys.argv[3]))

    return count("start", ring)


def take(ring, records):
    """Take so many records, one a commit."""

    def one():
        ring.add(now, "air", KEYS, (20 + now % 777 / 100, 40 + now % 311 / 10))
        assert ring.commit()

    global now
    for _ in range(records):
        segments = ring._end_seg
        now += 3333
        count(lambda segments=segments: "spill" if ring._end_seg > segments else "commit", one)


def drain(ring):
    """Give all out as batches; return how many records those were."""
    out = bytearray(839)
    gone = 0
    while True:
        built = count("batch", node.records.build, ring, out, now)
        if built is None:
            return gone
        gone += count("ack", ring.ack, *built[1:])


def show(phase, **more):
    """Print what was counted since the last time."""
    print(json.dumps(dict(costs, phase=phase, **more)))
    costs.clear()


ring = start(1)
show("new")
take(ring, int(sys.argv[1]))
show("outage", segments=ring.held()[1])
ring = start(2)
show("start", segments=ring.held()[1])
take(ring, 300)
show("outage goes on")
show("out", gone=drain(ring))
for _ in range(300):
    take(ring, 1)
    drain(ring)
show("online")
ring = start(3)
take(ring, int(sys.argv[2]))
show("full", segments=ring.held()[1], dropped=ring.dropped)
assert not ring.errors and not ring.corrupt
