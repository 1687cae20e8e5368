"""Cut the power at random writes while the ring works on a real littlefs.

argv: seed, points, sabotage ("" for none: the test must be able to fail). Prints one JSON line.
At every point the flash must mount again, every record
that was told and not acknowledged must be there but for those that were dropped and counted, in
order, under its own name and with its own content; and nothing else may be there under a name
that was never given out.
"""

import json
import random
import sys

import node.flash
import node.records
import node.recover
import node.ring
import node.segment

import flash_rig

random.seed(int(sys.argv[1]))
points = int(sys.argv[2])
LIFE = b"\x9f\x03\xc2\xaa"
KEYS = ("temperature_c", "humidity_pct")
# there are no files to import from after the umount
node.ring.once = node.flash.once = lambda name: getattr(node, name)
out = bytearray(1024)
sabotage = sys.argv[3] if len(sys.argv) > 3 else ""
if sabotage == "slots":  # one slot in twenty is not written

    def lossy(self, name, *parts, real=node.flash.Store.write):
        if name[0] != "j" or random.getrandbits(4):
            real(self, name, *parts)

    node.flash.Store.write = lossy
result = {"points": 0, "records": 0, "told": 0, "acked": 0, "dropped": 0, "cuts": 0, "again": 0}


def value(boot, seq):
    return boot * 1000 + seq % 997 / 10


class Judge:
    """Knows what was told and acknowledged, by (boot, seq)."""

    def __init__(self):
        self.told = {}
        self.upto = {}  # boot: highest seq that the gateway has
        self.low = {}

    def hear(self, life, boot, first, last):
        assert life == LIFE
        for seq in range(first, last + 1):
            assert (boot, seq) not in self.told, "told twice"
            self.told[boot, seq] = True
        result["told"] += last - first + 1


judge = None


class Ring(node.ring.Ring):
    """The ring, overheard: what it counts as dropped."""

    def _count_drop(self, life, boot, count):
        judge.counted[boot] = judge.counted.get(boot, 0) + count
        super()._count_drop(life, boot, count)

    def commit(self, spill=False):
        if sabotage == "early" and self.told and self._next > self._safe_seq:
            self.told(LIFE, self.boot, self._safe_seq, self._next - 1)
            told, self.told = self.told, None
            try:
                return super().commit(spill)
            finally:
                self.told = told
        return super().commit(spill)


def batch(ring, now):
    """Build a batch and check it; return (boot, first, last, low, drop), or None."""
    built = node.records.build(ring, out, now)
    if built is None:
        return None
    used, life, boot, last = built
    assert life == LIFE
    data = json.loads(bytes(out[:used]))
    seq = data["seq"]
    for uptime, name, values in data["recs"]:
        assert name == "air" and values["humidity_pct"] == 50, (name, values)
        assert uptime == (1 << 33) + seq, (uptime, seq)
        assert abs(values["temperature_c"] - value(boot, seq)) < 0.01, (boot, seq, values)
        seq += 1
    assert seq == last + 1
    return boot, data["seq"], last, data["low"], data["drop"]


def drain(ring, now, upto):
    """Take all there is; check that nothing told is missing. Return what came as {boot: seqs}."""
    seen = {}
    while True:
        got = batch(ring, now)
        if got is None:
            return seen
        boot, first, last, low, drop = got
        expected = upto.get(boot, 0) + 1
        if low > expected:  # the device says that what is between is gone
            assert drop >= low - expected, (boot, drop, low, expected)
            for seq in range(expected, low):
                if (boot, seq) in judge.told:
                    result["dropped"] += 1
                    judge.told.pop((boot, seq))
                    judge.gone[boot] = judge.gone.get(boot, 0) + 1
            expected = low
        assert first <= expected, ("hole", boot, first, expected)
        if first < expected:
            result["again"] += min(last, expected - 1) - first + 1
        for seq in range(max(first, expected), last + 1):
            judge.told.pop((boot, seq), None)
        upto[boot] = max(expected - 1, last)
        ring.ack(LIFE, boot, last)
        result["acked"] += last - first + 1


def life_of(flash, boot, upto, cut):
    """One boot: records, commits, now and then batches, until the power goes."""
    flash.cut_after = cut
    flash.torn = random.getrandbits(8)
    try:
        flash_rig.remount(flash)
        ring = Ring(
            node.flash.Store("/ring"), LIFE, boot, 2048, judge.flash_bytes, judge.hear
        )
        online = random.getrandbits(2) == 0
        seq = 0
        while seq < 1500:
            for _ in range(1 + random.getrandbits(2)):
                seq = ring.add((1 << 33) + seq + 1, "air", KEYS, (value(boot, seq + 1), 50))
                result["records"] += 1
            ring.commit()
            if random.getrandbits(6) == 0:
                online = not online
            if random.getrandbits(5) == 0:
                ring.learned_time(1764000000000 + seq * 100)
            if online:
                drain(ring, seq, upto)
    except flash_rig.PowerCut:
        result["cuts"] += 1
    except OSError:
        if flash.cut_after >= 0:
            raise
        result["cuts"] += 1  # littlefs reports a failing write in its own way
    return flash.again()


flash = flash_rig.Flash(64)
flash_rig.format(flash)
boot = 0
for point in range(points):
    if point % 40 == 0:
        flash = flash_rig.Flash(64)
        flash_rig.format(flash)
        judge = Judge()
        judge.gone = {}
        judge.counted = {}
        judge.flash_bytes = 4096 * (200 if point % 80 else 2)
        upto = {}
        boot = 0
    boot += 1
    flash = life_of(flash, boot, upto, random.randint(0, 250 if point % 4 else 60))
    result["points"] += 1
    if point % 5 == 4:  # at last the network is there: everything must come
        boot += 1
        flash_rig.remount(flash)
        ring = Ring(node.flash.Store("/ring"), LIFE, boot, 2048, judge.flash_bytes)
        dropped = result["dropped"]
        drain(ring, 0, upto)
        for key in sorted(judge.told):  # a boot whose last records were dropped: only counted
            judge.gone[key[0]] = judge.gone.get(key[0], 0) + 1
            result["dropped"] += 1
        judge.told = {}
        for old, count in judge.gone.items():
            counted = judge.counted.get(old, 0)
            assert counted >= count, ("lost", old, count, counted)
        judge.gone = {}
        assert ring.errors == 0 and ring.corrupt == 0, (ring.errors, ring.corrupt)
        if judge.flash_bytes > 4096 * 100:
            assert result["dropped"] == dropped, "dropped without need"
        left = ring.store.names()
        assert not [n for n in left if n[1:].isdigit()], left
print(json.dumps(result))
