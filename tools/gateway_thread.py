"""The real gateway in a thread of this process, for tests that want to look inside."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from gateway import config
from gateway.bridge import Bridge
from tools.lifetime import Startable
from tools.ports import HOST
from tools.waiting import wait_until

T = TypeVar("T")


class GatewayThread(Startable):
    """A Bridge on a free loopback port, with its outbox in `folder`.

    listener, outbox, upstream, routes: TOML lines of those tables; routes with their headers.
    """

    def __init__(self, folder: Path, upstream_port: int, *, listener: str = "", outbox: str = "",
                 upstream: str = "", routes: str = "", name: str = "gw",
                 scheme: str = "mqtt") -> None:
        self.name, self.port, self.folder = name, 0, folder
        self.bridge: Bridge | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self._config = folder / "tidegate.toml"
        self._config.write_text(
            f'id = "{name}"\n[listener]\nlisten = "{HOST}:0"\n{listener}\n[outbox]\n{outbox}\n'
            f'[upstream]\nurl = "{scheme}://{HOST}:{upstream_port}"\n{upstream}\n{routes}\n')
        self._loop = uvloop.new_event_loop()
        self._stop = asyncio.Event()
        self._failed: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def status_topic(self) -> str:
        """Where the upstream learns whether the gateway is there."""
        return f"tidegate/gateway/{self.name}/status"

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as error:
            self._failed = error
        finally:
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    async def _serve(self) -> None:
        self.bridge = bridge = Bridge(config.load(self._config))
        await bridge.open()
        self.port = bridge.port
        running = self._loop.create_task(bridge.run())
        stopping = self._loop.create_task(self._stop.wait())
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        await bridge.close()
        if running.done() and not running.cancelled():
            running.result()
        running.cancel()
        stopping.cancel()

    def call(self, what: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a coroutine in the gateway's thread; return what it returns."""
        return asyncio.run_coroutine_threadsafe(what(), self._loop).result(5.0)

    def status(self) -> dict[str, Any]:
        """Return the gateway's own account of itself, from its own thread."""
        async def ask() -> dict[str, Any]:
            assert self.bridge is not None
            return self.bridge.status()

        return self.call(ask)

    def wait_for(self, key: str, value: object, timeout_s: float = 10.0) -> None:
        """Wait until the status has a value."""
        wait_until(lambda: self.status()[key] == value, timeout_s, f"{key} {value}")

    def wait_connected(self) -> None:
        """Wait for the upstream."""
        self.wait_for("upstream", "connected")

    def start(self) -> None:
        """Start it and wait until it listens."""
        self._thread.start()
        wait_until(lambda: self.port or self._failed, 10.0, "the gateway listens")
        if self._failed is not None:
            raise self._failed

    def stop(self) -> None:
        """Stop it as SIGTERM does; raises what it failed with, if it did."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join(20.0)
        if self._failed is not None:
            raise self._failed


Make = Callable[..., GatewayThread]
"""What a fixture gives that starts gateways."""
