"""One thread that waits for many things: a board's wire, console, radio and alarms."""

from __future__ import annotations

import heapq
import itertools
import os
import selectors
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")
READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


class Alarm:
    """Something to be done later, unless cancelled."""

    def __init__(self, action: Callable[[], None]) -> None:
        self.action: Callable[[], None] | None = action

    def cancel(self) -> None:
        """Do not do it."""
        self.action = None


class Reactor:
    """Runs callbacks in one thread of its own: no two of them at the same time."""

    def __init__(self, name: str) -> None:
        self._selector = selectors.DefaultSelector()
        self._calls: deque[Callable[[], None]] = deque()
        self._alarms: list[tuple[float, int, Alarm]] = []
        self._order = itertools.count()
        self._wake_r, self._wake_w = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._selector.register(self._wake_r, READ, self._woken)
        self._ends = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    # From any thread.

    def do(self, action: Callable[[], Result]) -> Result:
        """Have `action` done by the reactor's thread and give its result, or raise its error."""
        if threading.current_thread() is self._thread:
            return action()
        if not self._thread.is_alive():
            raise RuntimeError("the virtual board was stopped")
        future: Future[Result] = Future()

        def run() -> None:
            try:
                future.set_result(action())
            except BaseException as error:
                future.set_exception(error)

        self._calls.append(run)
        self._wake()
        return future.result(timeout=30)

    def stop(self) -> None:
        """End the thread; the callbacks are forgotten. Harmless when it ended already."""
        self._ends = True
        self._wake()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    @property
    def alive(self) -> bool:
        """Say whether the thread runs."""
        return self._thread.is_alive() and not self._ends

    # From the reactor's thread.

    def watch(self, fd: int, events: int, action: Callable[[int], None]) -> None:
        """Call `action(events)` whenever `fd` is ready for one of `events`; 0: never."""
        known = fd in self._selector.get_map()
        if events and known:
            self._selector.modify(fd, events, action)
        elif events:
            self._selector.register(fd, events, action)
        elif known:
            self._selector.unregister(fd)

    def later(self, delay_s: float, action: Callable[[], None]) -> Alarm:
        """Do `action` after `delay_s` [s]."""
        alarm = Alarm(action)
        heapq.heappush(self._alarms, (time.monotonic() + delay_s, next(self._order), alarm))
        return alarm

    def _wake(self) -> None:
        try:
            os.write(self._wake_w, b"!")
        except OSError:
            pass  # full: it wakes anyway; closed: it has ended

    def _woken(self, _events: int) -> None:
        try:
            os.read(self._wake_r, 4096)
        except BlockingIOError:
            pass

    def _due(self) -> float | None:
        """Run the alarms that are due; gives the wait [s] for the next."""
        while self._alarms:
            when, _, alarm = self._alarms[0]
            if alarm.action is not None:
                wait = when - time.monotonic()
                if wait > 0:
                    return wait
            heapq.heappop(self._alarms)
            if alarm.action is not None:
                alarm.action()
        return None

    def _run(self) -> None:
        while not self._ends:
            while self._calls:
                self._calls.popleft()()
            wait = self._due()
            if self._calls:
                wait = 0.0
            for key, events in self._selector.select(wait):
                # An earlier callback of this round may have let this one go.
                if self._selector.get_map().get(key.fd) is key:
                    key.data(events)
        self._selector.close()
        os.close(self._wake_r)
        os.close(self._wake_w)
