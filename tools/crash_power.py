"""A power cut, as good as it can be had: is all that was committed there, and nothing corrupt?

    python -m tools.crash_power --points 500 --seed 7

A process of its own writes an outbox, commit after commit, under strace; `tools.crash_disk`
rebuilds the files as they may be after a power cut at many points, and the gateway's Outbox opens
them. It has to hold exactly what it held after some commit, no earlier than the last that had
returned: nothing lost, nothing half, nothing that had ended is back.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from gateway.batch import Batch, Entry
from gateway.journal import JOURNAL
from gateway.outbox import Outbox
from gateway.routes import LIVE
from gateway.wire import Publish
from tools import debian
from tools.crash_disk import CALLS, SURVIVALS, Call, Disk, read_trace
from tools.procs import die_with_us

State = dict[str, object]
LANE_KEY = LIVE << 56
JOURNAL_BYTES = 256 << 10  # so small that the database often takes over
NO_SYNC = "journal"


class PowerError(Exception):
    """The record could not be made; nothing follows from that."""


@lru_cache
def find_strace() -> list[str]:
    """Return the start of strace's command line. Raises PowerError where there is none."""
    found = shutil.which("strace", path=f"{os.environ.get('PATH', '')}:/usr/bin:/bin")
    if found:
        return [found]
    try:
        suite = debian.os_release().get("VERSION_CODENAME", "stable")
        return debian.fetch("strace", ["strace"], suite=suite).program("strace")
    except debian.FetchError as error:
        raise PowerError(f"strace: not on this machine, and {error}") from error


class Workload:
    """Commits drawn from a seed, and what the outbox holds after each of them."""

    def __init__(self, seed: int) -> None:
        self._rng = random.Random(seed)
        self._held: dict[int, Entry] = {}
        self._next = 1
        self._others: State = {}

    def batch(self) -> Batch:
        """Make the next commit: messages come, are released, end; the rest changes too."""
        rng, batch = self._rng, Batch()
        for _ in range(rng.randrange(1, 30)):
            payload = rng.randbytes(rng.randrange(10, 900))
            entry = Entry(LANE_KEY | self._next, self._next % 65535 + 1, 2, rng.random() < 0.1,
                          False, 5, "#", "dev", f"t/{self._next % 7}", payload)
            self._held[entry.key] = entry
            self._next += 1
            batch.insert.append(entry)
        old = [entry for entry in self._held.values() if entry not in batch.insert]
        batch.done = [entry for entry in old if entry.released]
        batch.release = [entry for entry in old if not entry.released and rng.random() < 0.7]
        seq = self._next
        batch.seen["dev", "c0ffee00", 1] = seq
        topic = f"r/{rng.randrange(3)}"
        batch.retained[topic] = Publish(topic, b"%d" % seq, 1, True, False, 0)
        batch.wills["dev"] = Publish("s", b"%d" % seq, 1, True, False, 0) if seq % 3 else None
        batch.received["dev", seq % 50 + 1] = True if seq % 2 else None
        return batch

    def committed(self, batch: Batch) -> None:
        """Take over a commit."""
        for entry in batch.done:
            del self._held[entry.key]
        for entry in batch.release:
            entry.released = True
        for kind in ("seen", "retained", "wills", "received"):
            for key, value in getattr(batch, kind).items():
                self._others[f"{kind} {key}"] = value

    def state(self) -> State:
        """What an outbox should hold now."""
        held: State = {f"msg {e.key}": (e.mid, e.qos, e.retain, e.released, e.topic,
                                        b"" if e.released else e.payload)
                       for e in self._held.values()}
        return held | {key: value for key, value in self._others.items() if value is not None}


def state_of(outbox: Outbox) -> State:
    """Read the same out of an outbox."""
    start = outbox.start()
    state: State = {f"msg {e.key}": (e.mid, e.qos, e.retain, e.released, e.topic,
                                     b"" if e.released else e.payload) for e in start.entries}
    state |= {f"seen {key}": seq for key, seq in start.seen.items()}
    state |= {f"retained {topic}": message for topic, message in start.retained.items()}
    state |= {f"wills {client}": will for client, will in start.wills.items()}
    for client, mids in start.received.items():
        state |= {f"received {(client, mid)}": True for mid in mids}
    return state


def write(folder: Path, seed: int, commits: int, weaken: str) -> None:
    """Be the process that is recorded: two lives, the first ends in good order, the second not.

    weaken: a pragma for SQLite, or NO_SYNC for the journal, so that a test can show a loss.
    """
    work = Workload(seed)
    marks = os.open(folder / "commits.marks", os.O_WRONLY | os.O_CREAT)
    for life in range(2):
        outbox = Outbox(folder / "outbox.db", JOURNAL_BYTES)
        if weaken == NO_SYNC:
            os.close(outbox.journal._fd)
            outbox.journal._fd = os.open(outbox.journal.path, os.O_RDWR)
        elif weaken:
            outbox._db.execute(weaken)
        for number in range(life * commits // 2, (life + 1) * commits // 2):
            batch = work.batch()
            os.write(marks, b"begin %d" % (number + 1))
            outbox.apply(batch)
            os.write(marks, b"end %d" % (number + 1))
            work.committed(batch)
        if life == 0:
            outbox.close()
    os._exit(0)


def record(folder: Path, seed: int, commits: int, weaken: str = "") -> list[Call]:
    """Run `write` under strace; return its system calls. Raises PowerError."""
    trace = folder.with_name("trace")
    writer = [sys.executable, "-m", "tools.crash_power", "--write", str(folder), "--seed",
              str(seed), "--commits", str(commits), "--weaken", weaken]
    argv = [*find_strace(), "-y", "-xx", "-s", "10000000", "-o", str(trace), "-e",
            f"trace={CALLS}", *writer]
    done = subprocess.run(die_with_us(argv), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["?"])[-1]
        raise PowerError(f"cannot record ({done.returncode}): {last}")
    with trace.open(encoding="ascii") as lines:
        calls = list(read_trace(iter(lines), folder))
    trace.unlink()
    return calls


@dataclass
class Result:
    """What the power cuts came to."""

    cuts: int = 0
    commits: int = 0
    lossy: int = 0  # of the cuts, those at which something could be lost
    offences: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether there was something to lose, and nothing was lost."""
        return self.lossy > 0 and not self.offences

    def as_dict(self) -> dict[str, object]:
        """Everything, for JSON."""
        return {"passed": self.passed, "power_cuts": self.cuts, "commits": self.commits,
                "points_with_something_to_lose": self.lossy, "offences": len(self.offences),
                "first_offences": self.offences[:10]}


def power_cuts(points: int, seed: int, *, commits: int = 400, weaken: str = "") -> Result:
    """Record, cut the power at so many points, each in every way, and judge."""
    result, rng = Result(commits=commits), random.Random(seed)
    with tempfile.TemporaryDirectory(prefix="tidegate-power-") as name:
        folder = Path(name) / "outbox"
        folder.mkdir()
        calls = record(folder, seed, commits, weaken)
        chosen = _choose(calls, points, rng)
        work, disk, states = Workload(seed), Disk(folder), [State()]
        returned = 0
        for index, call in enumerate(calls):
            if call.kind == "mark":
                word, number = call.data.split()
                if word == b"begin":
                    batch = work.batch()
                    work.committed(batch)
                    states.append(work.state())
                else:
                    returned = int(number)
                    states[:returned] = [State()] * returned  # no longer right; free them
            else:
                disk.do(call)
            if index in chosen:
                result.lossy += disk.unsafe > 0
                for fault in _cut(disk, Path(name), states, returned, rng):
                    result.offences.append(f"call {index} of {len(calls)}: {fault}")
                result.cuts += len(SURVIVALS)
    return result


def _choose(calls: list[Call], points: int, rng: random.Random) -> set[int]:
    """Half anywhere, half where the database itself is written: at checkpoints."""
    rare = [index for index, call in enumerate(calls)
            if call.kind != "mark" and not call.path.endswith(("-journal", JOURNAL))]
    near = [min(len(calls) - 1, max(1, rng.choice(rare) + rng.randrange(-3, 4)))
            for _ in range(points // 2)]
    return {*near, *(rng.randrange(1, len(calls)) for _ in range(points - len(near)))}


def _cut(disk: Disk, folder: Path, states: list[State], returned: int,
         rng: random.Random) -> Iterator[str]:
    for survival in SURVIVALS:
        target = folder / "after"
        target.mkdir()
        disk.after_power_cut(target, survival, rng)
        outbox = Outbox(target / "outbox.db", JOURNAL_BYTES)
        found = state_of(outbox)
        aside = outbox.set_aside
        outbox.close()
        shutil.rmtree(target)
        if aside is not None:
            yield f"{survival} survives: corrupt"
        elif found not in states[returned:]:
            wanted = states[returned]
            yield (f"{survival} survives: {len(wanted.keys() - found.keys())} missing, "
                   f"{len(found.keys() - wanted.keys())} too many after commit {returned}")


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--points", type=int, default=500)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--commits", type=int, default=400)
    parser.add_argument("--weaken", default="", help=argparse.SUPPRESS)
    parser.add_argument("--write", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.write:
        write(args.write, args.seed, args.commits, args.weaken)
    result = power_cuts(args.points, args.seed, commits=args.commits, weaken=args.weaken)
    print(json.dumps(result.as_dict(), indent=2))
    return 0 if result.passed else 1


if __name__ == "__main__":
    sys.exit(main())
