"""The show: the whole chain at work while it is broken on purpose, and an honest count.

Rules:
- What was produced is what the boards' own consoles tell of; what was delivered is what a
  subscriber at the upstream got. The gateway is asked for nothing but its queue's length.
- The count ends `length_s` after a reading of every board has arrived: what was told until then
  has to arrive within `drain_s`. The boards read on meanwhile; a later reading may arrive or not,
  but not twice and not out of order.
- The broker is killed by SIGTERM, which lets it save what it took. After SIGKILL Mosquitto may
  itself have forgotten messages that it had acknowledged, and this count would blame the chain
  (30 kills of each: nothing lost by SIGTERM, 21 of 383 by SIGKILL). The crash tests tell such
  loss apart by the packets on the wire. The gateway gets SIGKILL: it has to bear that.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple, Protocol

from tools.demo_state import DemoState
from tools.demo_view import View
from tools.gateway_process import Gateway
from tools.judge import Subscriber
from tools.lifetime import Closeable
from tools.mosquitto import Mosquitto
from tools.verdict import Record, Verdict, judge_records

FRAME_S = 0.2
STATUS_EVERY_S = 1.0
MOST_DRAIN_S = 20.0
ONLINE_S = 30.0
GATEWAY = "demo"


class DemoError(Exception):
    """The show could not be put on; nothing was judged."""


class Board(Protocol):
    """What the show does with a board."""

    name: str
    last_line: str

    def power_on(self) -> None:
        """Give it power."""

    def power_off(self) -> None:
        """Cut its power, in the middle of whatever it does."""

    def close(self) -> None:
        """End it for good."""


MakeBoard = Callable[[str, int, Path, Callable[[str], None]], Board]
"""Called with name, gateway port, folder and what takes its console's lines."""


class Step(NamedTuple):
    """Something that happens at a fraction of the show."""

    at: float
    what: str


TIMELINE: Sequence[Step] = (
    Step(0.13, "kill_upstream"),
    Step(0.24, "start_upstream"),
    Step(0.37, "kill_gateway"),
    Step(0.44, "start_gateway"),
    Step(0.57, "cut_power"),
    Step(0.71, "give_power"),
)


class Show(Closeable):
    """The chain and what is done to it. Use it as a context manager; `run` plays the timeline."""

    def __init__(
        self,
        folder: Path,
        make_board: MakeBoard,
        names: Sequence[str],
        *,
        length_s: float,
        timeline: Sequence[Step] = TIMELINE,
        fault: str = "",
    ) -> None:
        self.state = DemoState(list(names))
        self.state.length_s = length_s
        self.upstream = Mosquitto(folder / "upstream")
        self._folder = folder
        self._make_board = make_board
        self._names = list(names)
        self._timeline = timeline
        self._fault = fault
        self.drain_s = min(MOST_DRAIN_S, 5 + length_s / 2)
        self._stack = ExitStack()
        self._ended = threading.Event()
        self.boards: list[Board] = []

    def __enter__(self) -> Show:
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        """Stop everything, boards first; nothing is left behind."""
        self._ended.set()
        self._stack.close()

    def _build(self) -> None:
        state = self.state
        self._stack.enter_context(self.upstream)
        state.upstream_up = True
        state.note("note", f"upstream: Mosquitto on port {self.upstream.port}")
        self.judge = Subscriber(self.upstream.port, ["#"], on_arrival=state.arrival)
        self._stack.enter_context(self.judge)
        self.gateway = Gateway(
            self._folder / "gateway", self.upstream.port, name=GATEWAY, fault=self._fault
        )
        self._stack.enter_context(self.gateway)
        state.gateway_up = True
        state.note("note", f"gateway on port {self.gateway.port}")
        for name in self._names:
            board = self._make_board(
                name,
                self.gateway.port,
                self._folder / name,
                lambda line, name=name: state.console_line(name, line),  # type: ignore[misc]
            )
            self.boards.append(board)
            self._stack.callback(board.close)
            board.power_on()
            state.devices[name].power = True
            state.note("note", f"board {name} has power")
        watcher = threading.Thread(target=self._watch_status, name="status", daemon=True)
        watcher.start()
        self._stack.callback(watcher.join)
        self._stack.callback(self._ended.set)

    def _watch_status(self) -> None:
        while not self._ended.wait(STATUS_EVERY_S):
            found = self.gateway.status() if self.gateway.running else None
            with self.state.lock:
                self.state.depth = None if found is None else found.get("depth")

    # the faults, by name, for the timeline

    def kill_upstream(self) -> None:
        """End the broker; it saves its sessions."""
        self.upstream.stop()
        self.state.upstream_up = False
        self.state.note("fault", "upstream broker killed")

    def start_upstream(self) -> None:
        """Start the broker again, on the same port with the same files."""
        self.upstream.start()
        self.state.upstream_up = True
        self.state.note("heal", "upstream broker started again")

    def kill_gateway(self) -> None:
        """kill -9 the gateway."""
        self.gateway.kill()
        self.state.gateway_up = False
        self.state.note("fault", "gateway killed (kill -9)")

    def start_gateway(self) -> None:
        """Start the gateway again with the same outbox."""
        self.gateway.start()
        self.state.gateway_up = True
        self.state.note("heal", "gateway started again")

    def cut_power(self) -> None:
        """Cut the power of the first board."""
        board = self.boards[0]
        board.power_off()
        self.state.devices[board.name].power = False
        self.state.note("fault", f"{board.name}: power cut")

    def give_power(self) -> None:
        """Give the first board its power back."""
        board = self.boards[0]
        board.power_on()
        self.state.devices[board.name].power = True
        self.state.note("heal", f"{board.name}: power is back")

    # the show

    def wait_online(self, view: View) -> None:
        """Wait until a reading of every board has come out upstream."""
        deadline = time.monotonic() + ONLINE_S
        while not all(device.arrived for device in self.state.devices.values()):
            if time.monotonic() > deadline:
                silent = [
                    board for board in self.boards if not self.state.devices[board.name].arrived
                ]
                says = "; ".join(f"{board.name} says {board.last_line!r}" for board in silent)
                raise DemoError(f"nothing arrived within {ONLINE_S:.0f} s: {says}")
            view.update()
            self._ended.wait(FRAME_S)
        self.state.note("note", "readings of every board arrive upstream")

    def run(self, view: View) -> Verdict:
        """Play the timeline, wait for what is owed, and judge."""
        state = self.state
        state.start_s = time.monotonic()
        self.wait_online(view)
        state.length_s += state.now_s
        steps = list(self._timeline)
        while state.now_s < state.length_s:
            while steps and state.now_s >= steps[0].at * state.length_s:
                getattr(self, steps.pop(0).what)()
            view.update()
            self._ended.wait(FRAME_S)
        owed = state.told()
        state.note("note", f"the count ends: {len(owed)} readings have to be upstream")
        self._drain(owed, view)
        found = verdict(owed, state.told(), self.judge.records())
        for offence in found.offences:
            state.note("fault", f"{offence.kind}: {offence.what}")
        view.update()
        state.freeze()
        return found

    def _drain(self, owed: Sequence[Record], view: View) -> None:
        deadline = time.monotonic() + self.drain_s
        while time.monotonic() < deadline:
            view.update()
            if self.judge.wait_for_records(owed, FRAME_S):
                return


def verdict(owed: Iterable[Record], told: Iterable[Record], arrived: Iterable[Record]) -> Verdict:
    """Judge what arrived: all of `owed` must have, the rest of `told` may have."""
    owed_set = set(owed)
    told = list(told)
    possible = {record for record in told if record not in owed_set}
    return judge_records(told, arrived, possible=possible)
