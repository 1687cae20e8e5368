"""Where a scenario takes place: broker, gateway, links, boards, subscriber; built and torn down.

    clients, boards ─▶ devices link ─▶ gateway ─▶ upstream link ─▶ Mosquitto ◀─ subscriber
                       noisy link ──────▲

The subscriber is at the broker itself, with a session that outlives its restarts. The two links
that devices connect to listen on the bench's `host`, all else on loopback. Children are started
from one thread that lives as long as the site (tools.procs).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from tools.arrival import Arrival
from tools.hil.bench import Bench, Entry, NoBoardError
from tools.hil.bench_boards import BenchBoard, Virtual
from tools.hil.carriers import Bridge, Carrier, Tidegate, pause
from tools.hil.playback import EVERYWHERE, Playback
from tools.hil.real_board import Real
from tools.hil.scenario import Scenario
from tools.hil.sights import Promises, Sights
from tools.judge import Subscriber
from tools.mosquitto import Mosquitto
from tools.procs import ChildError
from tools.proxy import Proxy
from tools.verdict import Record

T = TypeVar("T")
ONLINE_S = 30.0
SAVE_AT_END = ("autosave_on_changes false", "autosave_interval 1800")
"""A broker that is only stopped saves all when it ends; to save at each change is slow."""


class Site:
    """Use as `async with`. carrier: `tidegate` or `mosquitto`; fault: see tools.faulty_gateway.

    seconds: the scenario's length here. on_arrival: called for each, on the subscriber's thread.
    """

    def __init__(self, scenario: Scenario, folder: Path, bench: Bench, *, seconds: float,
                 carrier: str = "tidegate", fault: str = "",
                 on_arrival: Callable[[Arrival], None] | None = None) -> None:
        self.scenario, self.folder, self.bench, self.seconds = scenario, folder, bench, seconds
        self.boards: list[BenchBoard] = []
        self.links: dict[str, Proxy] = {}
        self.sights, self.promises = Sights(), Promises()
        self.playback: Playback | None = None
        self.troubles: list[str] = []
        self.gateway_meant_down = False
        self._carrier, self._fault, self._on_arrival = carrier, fault, on_arrival
        self._stack = ExitStack()
        self._children = ThreadPoolExecutor(1, thread_name_prefix="hil-children")
        self.upstream: Mosquitto
        self.gateway: Carrier
        self.subscriber: Subscriber

    async def in_thread(self, job: Callable[[], T]) -> T:
        """Run what blocks in the thread of the children."""
        return await asyncio.get_running_loop().run_in_executor(self._children, job)

    async def __aenter__(self) -> Site:
        try:
            await self._open()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: BaseException | None,
                        trace: TracebackType | None) -> None:
        await self.close()

    async def _open(self) -> None:
        for fault in self.scenario.faults:
            if fault.do.startswith("board.") and not self.scenario.boards.count:
                raise ChildError(f"{fault.do}: the scenario has no boards")
        killed = any(fault.do == "upstream.kill" for fault in self.scenario.faults)
        self.upstream = Mosquitto(self.folder / "upstream", extra=() if killed else SAVE_AT_END)
        await self.in_thread(self.upstream.start)
        up = self.links["upstream"] = Proxy(self.upstream.port)
        up.tap, up.on_end = self.sights.tap, self.sights.forget
        await up.start()
        self.subscriber = Subscriber(self.upstream.port, ["#"], on_arrival=self._on_arrival)
        await self.in_thread(self.subscriber.start)
        self.gateway = self._make_carrier(up.port)
        await self.in_thread(self.gateway.start)
        for name in ("devices", "noisy"):
            self.links[name] = Proxy(self.gateway.port, seed=1, host=self.bench.host)
            await self.links[name].start()
        if self.scenario.boards.count:
            devices = self.links["devices"]
            devices.tap, devices.on_end = self.promises.tap, self.promises.forget
        await self._boards()

    def _make_carrier(self, upstream_port: int) -> Carrier:
        settings, folder = self.scenario.gateway, self.folder / "gateway"
        if self._carrier == "mosquitto":
            folder.mkdir(parents=True)
            return Bridge(folder, upstream_port, settings)
        return Tidegate(folder, upstream_port, settings, fault=self._fault, disk=self._disk())

    def _disk(self) -> str:
        """Return when the disk is full, counted from the gateway's start."""
        for fault in self.scenario.faults:
            if fault.do == "disk.full":
                at_s = fault.at * self.seconds
                return f"full:{at_s:.2f}:{(fault.until - fault.at) * self.seconds:.2f}"
        return ""

    async def _boards(self) -> None:
        wanted = self.scenario.boards
        if wanted.playback:
            self.playback = Playback(Path(self.scenario.folder) / wanted.playback, wanted.values)
        for _ in range(wanted.count):
            board = self._board(self._stack.enter_context(self.bench.take(wanted.needs)))
            self.boards.append(board)
            await self.in_thread(board.start)
        deadline_s = time.monotonic() + ONLINE_S
        for board in self.boards:
            while not board.ledger.records():
                if time.monotonic() > deadline_s:
                    said = [line for line in board.console.lines if " not usable" in line]
                    last = [*board.console.lines[-1:], *said] or ["nothing"]
                    raise ChildError(f"{board.name} told of no record in {ONLINE_S:.0f} s; it "
                                     f"said {last[-1]!r}")
                await asyncio.sleep(0.05)

    def _board(self, entry: Entry) -> BenchBoard:
        """Make a board that feels the first values of the recording, where there is one."""
        folder, port, period_s = (self.folder / "boards", self.links["devices"].port,
                                  self.scenario.boards.period_s)
        if not entry.virtual:
            feels = self.playback.at_first() if self.playback else None
            return Real(entry, folder, self.bench.host, port, feels=feels, period_s=period_s)
        board = Virtual(entry, folder, port, period_s=period_s, host=self.bench.host)
        for place, values in (self.playback.at_first(EVERYWHERE).items() if self.playback
                              else ()):
            board.world.set(place, **values)
        return board

    def told(self) -> dict[Record, int]:
        """Return what all boards told of so far."""
        return {record: t_ns for board in self.boards
                for record, t_ns in board.ledger.records().items()}

    async def heal(self) -> None:
        """Take every fault away, and start again what is down."""
        for link in self.links.values():
            link.heal()
        for child in (self.upstream.child, self.gateway.child):
            pause(child, False)
        if not self.upstream.running:
            await self.in_thread(self.upstream.start)
        if not self.gateway.child.running:
            await self.in_thread(self.gateway.start)
        self.gateway_meant_down = False
        for board in self.boards:
            with suppress(NoBoardError):  # of a real one neither can be taken, or not both
                await self.in_thread(board.power_on)
            with suppress(NoBoardError):
                await self.in_thread(partial(board.wifi, True))

    async def close(self) -> None:
        """End everything that was started, whatever state it is in."""
        for board in self.boards:
            try:
                await self.in_thread(board.stop)
            except ChildError as error:
                self.troubles.append(str(error))
        if hasattr(self, "subscriber"):
            await self.in_thread(self.subscriber.stop)
        for link in self.links.values():
            if link.port:
                await link.stop()
        for owner in ("gateway", "upstream"):
            if hasattr(self, owner):
                child = getattr(self, owner).child
                with suppress(ChildError, OSError):
                    await self.in_thread(child.kill)
        self._stack.close()
        self._children.shutdown()


def wall_offset_s() -> float:
    """Return the wall clock less the monotonic one [s]."""
    return time.time() - time.monotonic()

