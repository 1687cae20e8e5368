"""A disk that the outbox itself has filled: does everything acknowledged get through, by itself?

    python -m tools.crash_drain --seeds 20 --sizes 8,12,32,64 --disks ext4,tmpfs

Upstream away and `max_size` above what the disk has, a device sends until no more is acknowledged;
then a real Mosquitto comes up. Everything acknowledged has to arrive, and new messages have to be
taken again; nothing is freed by hand. The seed chooses the sizes of messages, the QoS on both
sides, whether somebody else takes what is left of the disk, and where kill -9 falls: while it
fills, at the full moment, while it drains.

The disk is a small one of our own, in a mount namespace that goes with the process: ext4 in a file
(root and loop devices), or tmpfs (root, or unprivileged user namespaces).
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gateway import control
from tools.gateway_process import Gateway
from tools.judge import Subscriber
from tools.mosquitto import Mosquitto
from tools.ports import free_port
from tools.procs import die_with_us
from tools.raw_client import RawClient, publish, pubrel
from tools.small_disk import DiskError, small_disk
from tools.waiting import wait_until

QUIET_S = 2.5  # without an acknowledgement: the disk is full
STALLED_S = 60.0  # without a message that arrives: it drains no more
WINDOW = 30
MESSAGES = 9000  # about as many fill any disk
AFTER = 100
LIMIT_S = 1800


@dataclass(frozen=True)
class Case:
    """One run. kills: where, of `filling`, `full`, `draining`. eaten: somebody else takes what is
    left of the disk once it is full."""

    seed: int
    disk: str
    size_mb: int
    qos: int
    upgrade: int
    payload: int
    kills: tuple[str, ...]
    eaten: bool

    @classmethod
    def drawn(cls, seed: int, disk: str, size_mb: int) -> Case:
        """Choose the rest by the seed."""
        rng = random.Random(f"{seed} {disk} {size_mb}")
        payload = max(size_mb * 2**20 // MESSAGES, rng.choice([150, 900, 1000, 3000, 20_000]))
        kills = tuple(k for k in ("filling", "full", "draining") if rng.random() < 0.5) \
            if seed % 2 else ()
        return cls(seed, disk, size_mb, rng.choice([1, 2]), rng.choice([1, 2]), payload, kills,
                   rng.random() < 0.5)


class Device:
    """Sends with a window, and knows what was acknowledged; begins anew on a new connection."""

    def __init__(self, case: Case, rng: random.Random) -> None:
        self.taken: set[int] = set()
        self.again: set[int] = set()  # sent more than once, since nobody said that it is safe
        self._case, self._rng = case, rng
        self._client: RawClient | None = None
        self._waiting: dict[int, int] = {}  # packet identifier → message
        self._unsent: list[int] = []
        self._next = self._mid = 0

    def connect(self, port: int) -> None:
        """Begin anew."""
        self.close()
        self._client = RawClient(port)
        self._client.open("filler")
        self.again |= {*self._waiting.values()}
        self._unsent = [*self._waiting.values(), *self._unsent]
        self._waiting = {}

    def close(self) -> None:
        """Go, without a word."""
        if self._client is not None:
            self._client.close()

    def send(self, timeout_s: float) -> bool:
        """Fill the window, read one answer; False where none came in time."""
        client = self._client
        assert client is not None
        while len(self._waiting) < WINDOW:
            if not self._unsent:
                self._unsent.append(self._next)
                self._next += 1
            number = self._unsent.pop(0)
            self._mid = self._mid % 65_535 + 1
            self._waiting[self._mid] = number
            size = self._rng.randrange(self._case.payload // 2, self._case.payload * 3 // 2)
            client.send(publish("d/a", b"%08d" % number + bytes(size), self._case.qos, self._mid))
        return self.read(timeout_s)

    def read(self, timeout_s: float) -> bool:
        """Read one answer; False where none came in time."""
        client = self._client
        assert client is not None
        try:
            answer = client.read(timeout_s)
        except TimeoutError:
            return False
        if answer is None:
            raise ConnectionError("the gateway closed")
        mid = int.from_bytes(answer[1][:2], "big")
        if answer[0] in (0x40, 0x50):
            self.taken.add(self._waiting.pop(mid))
        if answer[0] == 0x50:
            client.send(pubrel(mid))
        return True

    def fill(self) -> None:
        """Send until no more is acknowledged."""
        while self.send(QUIET_S):
            pass

    def send_some(self, count: int, timeout_s: float) -> None:
        """Send until so many more are acknowledged. Raises TimeoutError."""
        goal, deadline_s = len(self.taken) + count, time.monotonic() + timeout_s
        while len(self.taken) < goal:
            if not self.send(1.0) and time.monotonic() > deadline_s:
                raise TimeoutError(f"{goal - len(self.taken)} new messages not acknowledged "
                                   f"within {timeout_s:.0f} s")


class Run:
    """One case on a disk that is mounted."""

    def __init__(self, case: Case, disk: Path, work: Path) -> None:
        self.case, self.disk = case, disk
        self.rng = random.Random(case.seed)
        self.outbox = disk / "outbox.db"
        self.broker = Mosquitto(work / "upstream", port=free_port(), persistence=False)
        self.gateway = Gateway(work, self.broker.port, settings=(
            f'[outbox]\npath = "{self.outbox}"\nmax_size = "1 GiB"\n'
            f"[[route]]\nupgrade = {case.upgrade}\n"))
        self.device = Device(case, self.rng)
        self.arrived: Counter[int] = Counter()

    def go(self) -> dict[str, Any]:
        """Fill, let it drain, send more; return what came of it."""
        case, began_s = self.case, time.monotonic()
        self.gateway.start()
        self.device.connect(self.gateway.port)
        if "filling" in case.kills:
            fits = (case.size_mb << 20) // case.payload
            self.device.send_some(self.rng.randrange(fits // 20, fits // 3), 120.0)
            self._kill()
        self.device.fill()
        full = self._status()
        if case.eaten:
            self._eat()
        if "full" in case.kills:
            self._kill()
            self.device.fill()
        taken_full = len(self.device.taken)
        self.broker.start()
        with Subscriber(self.broker.port, ["d/#"], on_arrival=lambda a: self.arrived.update(
                [int(a.payload[:8])])):
            if "draining" in case.kills:
                goal = len(self.arrived) + self.rng.randrange(1, taken_full // 2)
                self._until(lambda: len(self.arrived) >= goal)
                self._kill()
            self._until(lambda: self.device.taken <= self.arrived.keys())
            self.device.send_some(AFTER, STALLED_S)
            self._until(lambda: self.device.taken <= self.arrived.keys())
            wait_until(lambda: self._status()["disk"] == "ok", 30.0)
        doubled = [n for n, count in self.arrived.items()
                   if count > 1 and n not in self.device.again]
        return {"taken_full": taken_full, "taken": len(self.device.taken),
                "doubled": len(doubled), "said": full["disk"], "said_bytes": full["bytes"],
                "said_max_bytes": full["max_bytes"], "took_s": round(time.monotonic() - began_s)}

    def close(self) -> None:
        """End what runs."""
        self.device.close()
        self.gateway.stop()
        self.broker.stop()

    def _status(self) -> dict[str, Any]:
        return control.ask(self.outbox)

    def _kill(self) -> None:
        """kill -9, and start on the disk as it is."""
        self.gateway.kill()
        self.gateway.start(60.0)
        self.device.connect(self.gateway.port)

    def _eat(self) -> None:
        """Write until the disk is full to the last byte."""
        with (self.disk / "of-somebody-else").open("wb", buffering=0) as file:
            for size in (65_536, 4096, 512):
                with suppress(OSError):
                    while file.write(bytes(size)) == size:
                        pass
                with suppress(OSError):
                    os.fsync(file.fileno())

    def _until(self, done: Callable[[], bool]) -> None:
        """Wait as long as something arrives. Raises TimeoutError."""
        before, since_s = -1, time.monotonic()
        while not done():
            with suppress(ConnectionError):
                self.device.read(0.2)
            if (now := self.arrived.total()) != before:
                before, since_s = now, time.monotonic()
            elif time.monotonic() - since_s > STALLED_S:
                missing = len(self.device.taken - self.arrived.keys())
                raise TimeoutError(f"{missing} of {len(self.device.taken)} acknowledged do not "
                                   f"arrive; status: {self._status()}")


def run_here(case: Case) -> dict[str, Any]:
    """Run a case in a mount namespace of this process's own. Raises DiskError."""
    with tempfile.TemporaryDirectory(prefix="tidegate-drain-") as name:
        work = Path(name)
        with small_disk(work, case.disk, case.size_mb << 20) as disk:
            run = Run(case, disk, work)
            try:
                found = run.go()
            except (TimeoutError, ConnectionError, OSError) as error:
                return {"passed": False, "why": str(error), "log": run.gateway.child.tail(5)}
            finally:
                run.close()
    if found["said_max_bytes"] > case.size_mb << 20:
        return {"passed": False, "why": "status knows of no limit by the disk", **found}
    return {"passed": found["doubled"] == 0 or (case.upgrade < 2 and bool(case.kills)), **found}


def run(case: Case) -> dict[str, Any]:
    """Run a case in a process of its own. Raises DiskError where there can be no such disk."""
    own = ["--mount"] if os.geteuid() == 0 else ["--mount", "--map-root-user"]
    argv = ["unshare", *own, "--", sys.executable, "-m", "tools.crash_drain", "--inside",
            json.dumps(asdict(case))]
    try:
        done = subprocess.run(die_with_us(argv), capture_output=True, text=True, check=False,
                              timeout=LIMIT_S)
    except subprocess.TimeoutExpired:
        return {"passed": False, "why": f"no end within {LIMIT_S} s"}
    except OSError as error:
        raise DiskError(f"no unshare: {error}") from error
    if done.stderr.startswith("unshare:"):
        raise DiskError(done.stderr.strip()[-200:])
    if not done.stdout:
        return {"passed": False, "why": done.stderr.strip()[-1000:]}
    found: dict[str, Any] = json.loads(done.stdout)
    if "no_disk" in found:
        raise DiskError(found["no_disk"])
    return found


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, default=1, help="The first.")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--sizes", default="8,12,32,64", help="MB, each with each disk")
    parser.add_argument("--disks", default="ext4,tmpfs")
    args = parser.parse_args()
    if args.inside:
        case = Case(**json.loads(args.inside))
        try:
            print(json.dumps(run_here(case)))
        except DiskError as error:
            print(json.dumps({"no_disk": str(error)}))
        return 0
    failed = 0
    for seed in range(args.seed, args.seed + args.seeds):
        for disk in args.disks.split(","):
            for size in map(int, args.sizes.split(",")):
                case = Case.drawn(seed, disk, size)
                found = run(case)
                failed += not found["passed"]
                print(json.dumps({**asdict(case), **found}), flush=True)
    print(json.dumps({"failed": failed}))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
