"""Count the erases while the ring spills and drains. argv: records a group, 1 if acknowledged.

Prints one JSON line: erases and bytes written, for each 1000 records.
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

group, acked = int(sys.argv[1]), sys.argv[2] == "1"
RECORDS = 3000
# there are no files to import from after the umount
node.ring.once = node.flash.once = lambda name: getattr(node, name)
flash = flash_rig.Flash(128)
flash_rig.format(flash)
ring = node.ring.Ring(node.flash.Store("/ring"), b"life", 7, 4096, 262144)
for number in range(18):  # they are made once in a board's life
    os.mkdir("/ring/%d" % number)
flash.erases = flash.bytes = 0
seq = now = 0
while seq < RECORDS:
    for _ in range(group):
        now += 3333
        values = (20 + now % 777 / 100, 40 + now % 311 / 10)
        seq = ring.add(now, "air", ("temperature_c", "humidity_pct"), values)
    assert ring.commit()
    if acked:
        assert ring.ack(b"life", 7, seq) == group
out = bytearray(1024)
left = 0
while True:
    built = node.records.build(ring, out, now)
    if built is None:
        break
    left += ring.ack(*built[1:])
assert left == (0 if acked else seq) and not ring.dropped and not ring.errors
print(json.dumps({
    "erases": flash.erases * 1000 / seq, "bytes": flash.bytes * 1000 // seq,
    "segments": ring._end_seg - 1,
}))  # fmt: skip
