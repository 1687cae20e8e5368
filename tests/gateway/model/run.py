"""One run: steps that a seed chooses, then rest, then the accounts."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.wire import Packet
from model import ends
from model.house import routes
from model.rules import BrokenError, Options, hold
from model.world import World

STEPS = 250


class Steps:
    """What can happen, with its weight."""

    def __init__(self, world: World) -> None:
        self.world, self.rng, options = world, world.rng, world.options
        weights: dict[Callable[[], None], float] = {
            self.message: 30, self.disk_works: 12, self.disk_tells: 12, self.carry: 12,
            self.answer: 12, world.send_releases: 4, world.connect: 10, self.lose: 2,
            self.pace: 1.5, self.device_again: 1, self.expire: 1,
            self.batch: 4 * options.contract, self.disk_fills: 2 * options.full,
            self.reload: 0.5 * options.reload}
        self._acts, self._weights = list(weights), list(weights.values())

    async def step(self) -> None:
        world = self.world
        if world.options.crash and self.rng.random() < world.options.crash_share:
            await world.crash()
        else:
            self.rng.choices(self._acts, self._weights)[0]()
        for _ in range(self.rng.choice([1, 2, 4])):
            await asyncio.sleep(0)
        if world.brisk:
            self.keep_up()
        world.check()

    def keep_up(self) -> None:
        """Disk and broker are about as quick as the devices."""
        for act in (self.disk_works, self.disk_tells, self.carry, self.answer):
            if self.rng.random() < 0.7:
                act()

    def message(self) -> None:
        device = self.rng.choice(self.world.devices)
        if device.peer is None or device.peer.paused:
            return
        count = self.rng.choice([1, 1, 1, 2, 3])
        packets: list[Packet] = [device.message(self.rng) for _ in range(count)]
        self.world.trace.append(f"{device.name} sends {packets}")
        self.world.give(device, packets)

    def batch(self) -> None:
        device = self.world.devices[0]
        if device.peer is None or device.peer.paused:
            return
        batch = self.world.records.batch(self.rng)
        if batch is not None:
            self.world.trace.append(f"contract {batch.payload!r}")
            self.world.give(device, [batch])

    def disk_works(self) -> None:
        self.world.trace.append(f"disk works, jobs {len(self.world.disk.held)}")
        self.world.disk.work()
        self.world.check()

    def disk_tells(self) -> None:
        self.world.trace.append("disk tells")
        self.world.disk.tell()

    def disk_fills(self) -> None:
        disk = self.world.disk
        disk.full, disk.broken = self.rng.random() < 0.5, self.rng.random() < 0.3
        self.world.trace.append(f"disk full {disk.full}, broken {disk.broken}")

    def carry(self) -> None:
        self.world.link.carry(self.rng.randint(1, 4))
        if self.world.link.connected and self.rng.random() < 0.5:
            self.world.bridge.drain.upstream_writable()

    def answer(self) -> None:
        self.world.bridge.drain.look()
        self.world.read_answers(self.rng.randint(1, 5))

    def lose(self) -> None:
        self.world.lose(by_broker=self.rng.random() < 0.6)

    def pace(self) -> None:
        self.world.pace()

    def device_again(self) -> None:
        device = self.rng.choice(self.world.devices)
        self.world.trace.append(f"{device.name} connects again")
        self.world.part(device)
        self.world.join(device)

    def reload(self) -> None:
        self.world.trace.append("routes reloaded")
        self.world.bridge.use_routes(routes(self.rng, self.world.options))

    def expire(self) -> None:
        self.world.disk.age_s += self.rng.randint(0, 8)
        self.world.bridge.leaving.expire_waiting()


async def _live(world: World, steps: int) -> None:
    errors: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: errors.append(context))
    possible = Steps(world)
    for _ in range(steps):
        await possible.step()
    if world.options.full:
        world.disk.full = True
        for _ in range(5):
            possible.message()
        await world.drain_full()
    await world.settle()
    ends.check(world)
    hold(not errors, f"an exception nobody took: {errors}")


async def _run(seed: int, options: Options, steps: int, folder: Path,
               patch: pytest.MonkeyPatch) -> World:
    world = World(seed, options, folder, patch)
    try:
        await _live(world, steps)
    except Exception as error:
        what = str(error) if isinstance(error, BrokenError) else repr(error)
        raise BrokenError("\n".join([
            *world.trace, f"seed {seed} of {options.name!r}: {what}",
            f"again: make model SEED={seed} N=1 ARGS='-k {options.name}'"])) from error
    finally:
        await world.stop()
    return world


def run(seed: int, options: Options, folder: Path, steps: int = STEPS) -> World:
    """Run a seed; return what became of it. Raises BrokenError with the trace."""
    folder.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        return asyncio.run(_run(seed, options, steps, folder, patch))
