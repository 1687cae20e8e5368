"""Damage a segment, then the table of names, on a real littlefs. Prints one JSON line.

Says how many records came under their name, how many as unreadable, and what was dropped.
"""

import json

import node.flash
import node.records
import node.recover
import node.ring
import node.segment

import flash_rig

# there are no files to import from after the umount
node.ring.once = node.flash.once = lambda name: getattr(node, name)
flash_rig.format(flash_rig.Flash(64))
out = bytearray(839)


def flip(name, at):
    """Change one bit of a file, as worn flash does."""
    path = node.flash.Store("/ring")._at(name)
    with open(path, "rb") as f:
        data = bytearray(f.read())
    data[at] ^= 0x40
    with open(path, "wb") as f:
        f.write(data)


def start(boot):
    return node.ring.Ring(node.flash.Store("/ring"), b"life", boot, 2048, 262144)


def drain(ring):
    names = {}
    while True:
        built = node.records.build(ring, out, 0)
        if built is None:
            return {"names": names, "dropped": ring.dropped, "corrupt": ring.corrupt}
        for record in json.loads(bytes(out[: built[0]]))["recs"]:
            names[record[1]] = names.get(record[1], 0) + 1
        ring.ack(*built[1:])


results = []
for boot, name, at in ((1, "s1", 60), (3, "shapes", 5), (5, None, 0)):
    ring = start(boot)
    for number in range(40):
        ring.add(number, "air", ("temperature_c",), (number / 8,))
        if number == 19:
            ring.commit(True)
    ring.commit()
    if name:
        flip(name, at)
    ring = start(boot + 1)
    ring.add(1, "door", ("open",), (True,))
    ring.commit()
    results.append(drain(ring))
    ring.add(2, "door", ("open",), (False,))  # with an empty ring: names are kept once again
    ring.commit()
    ring.ack(b"life", boot + 1, 2)
    ring._write_slot(0)  # an empty one: nothing of this goes again
    for left in ring.store.names():
        if left[0] == "s" and left[1:].isdigit():
            raise AssertionError(left)
print(json.dumps(results))
