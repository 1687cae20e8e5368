"""The fault proxy for code without an event loop: tests, the demo, the bench."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from tools.lifetime import Startable
from tools.ports import HOST
from tools.proxy import Counts, Proxy
from tools.proxy_link import Direction, Fault

T = TypeVar("T")


class ProxyThread(Startable):
    """A Proxy with a thread and an event loop of its own, for code that has none."""

    def __init__(self, target_port: int, *, port: int = 0, seed: int = 0,
                 host: str = HOST) -> None:
        self._proxy = Proxy(target_port, port=port, seed=seed, host=host)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def _await(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10.0)

    def _call(self, function: Callable[[], T]) -> T:
        async def call() -> T:
            return function()

        return self._await(call())

    @property
    def port(self) -> int:
        """The port to connect to."""
        return self._proxy.port

    @property
    def counts(self) -> Counts:
        """What has happened so far."""
        return self._proxy.counts

    @property
    def links(self) -> int:
        """How many connections there are now."""
        return self._call(lambda: self._proxy.links)

    def set_fault(self, fault: Fault, *directions: Direction) -> None:
        """See Proxy.set_fault."""
        self._call(lambda: self._proxy.set_fault(fault, *directions))

    def heal(self) -> None:
        """See Proxy.heal."""
        self._call(self._proxy.heal)

    def refuse(self, refusing: bool = True) -> None:
        """See Proxy.refuse."""
        self._call(lambda: self._proxy.refuse(refusing))

    def cut(self, *, reset: bool = True) -> int:
        """See Proxy.cut."""
        return self._call(lambda: self._proxy.cut(reset=reset))

    def start(self) -> None:
        """Start the thread and listen."""
        self._thread.start()
        self._await(self._proxy.start())

    def stop(self) -> None:
        """Cut every connection and end the thread."""
        self._await(self._proxy.stop())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10.0)
        self._loop.close()
