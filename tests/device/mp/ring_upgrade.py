"""Take over a ring that earlier firmware wrote: every file flat in /ring. Prints one JSON line."""

import json
import os

import node.flash
import node.records
import node.recover
import node.ring
import node.segment

import flash_rig

# there are no files to import from after the umount
node.ring.once = node.flash.once = lambda name: getattr(node, name)
RECORDS = 700
KEYS = ("temperature_c", "humidity_pct")


class OldStore(node.flash.Store):
    """Files where earlier firmware had them."""

    def __init__(self):
        super().__init__("/ring")
        try:
            os.mkdir("/ring")
        except OSError:
            pass

    def names(self):
        return os.listdir("/ring")

    def _at(self, name):
        return self.path + name


flash_rig.format(flash_rig.Flash(128))
ring = node.ring.Ring(OldStore(), b"life", 7, 2048, 262144)
for number in range(1, RECORDS + 1):
    ring.add(number, "air", KEYS, (number, 50))
    if number < RECORDS - 30:
        assert ring.commit()
    else:  # as it was: a group a slot
        assert ring._write_slot(ring._free_slot())
names = os.listdir("/ring")
segments = len([name for name in names if name[0] == "s" and name[1:].isdigit()])
slots = len([name for name in names if name[0] == "j"])

ring = node.ring.Ring(node.flash.Store("/ring"), b"life", 8, 2048, 262144)
for number in range(1, 301):  # it works as ever, the old files still there
    ring.add(number, "door", ("open",), (number,))
    assert ring.commit()
out = bytearray(839)
seen = set()
while True:
    built = node.records.build(ring, out, 0)
    if built is None:
        break
    batch = json.loads(bytes(out[: built[0]]))
    for seq, record in enumerate(batch["recs"], batch["seq"]):
        assert record[0] == seq and record[1] == ("air" if batch["boot"] == 7 else "door")
        seen.add((batch["boot"], seq))
    ring.ack(*built[1:])
wanted = [(7, seq) for seq in range(1, RECORDS + 1)] + [(8, seq) for seq in range(1, 301)]
print(json.dumps({
    "segments": segments, "slots": slots,
    "missing": [key for key in wanted if key not in seen],
    "left": [name for name in os.listdir("/ring") if not name.isdigit() and name[1:].isdigit()],
    "errors": ring.errors + ring.corrupt,
}))  # fmt: skip
