"""The upstreams of a crash run, and how each is broken: Mosquitto, and the stand-in for EMQX.

Mosquitto is restarted in good order (`safe`), killed while it saves each second (`saving`), or
killed while it saves nothing (`forgetful`). EMQX keeps its sessions in memory: whatever ends it
makes it forget them (`forgetful`); where it is not to forget (`safe`) it goes on running and is as
it is: connections cut without a word, a limiter that refuses, sockets that are not read, a session
that another takes over.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from tools import crash_mqtt as mqtt
from tools.crash_plan import Life, Round
from tools.crash_subscriber import Subscriber
from tools.emqx.process import Emqx
from tools.emqx.settings import Settings
from tools.mosquitto import Mosquitto
from tools.ports import HOST

JUDGE = "crash-judge"
AWAITING_REL = Settings.max_awaiting_rel
Run = Callable[[Callable[[], object]], Awaitable[object]]
"""Runs what blocks in the thread of the children."""


class Upstream:
    """What a crash run needs of its upstream, and what both have in common."""

    server: Mosquitto | Emqx

    @property
    def port(self) -> int:
        """The one that it has for all of its life."""
        return self.server.port

    def start(self) -> None:
        """Start it."""
        self.server.start()

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        self.server.kill()

    def die(self) -> None:
        """SIGKILL at once, without waiting for its end."""
        os.kill(self.server.child.pid, signal.SIGKILL)

    def saved_s(self) -> float:
        """When it saved last [s, monotonic]; minus infinity for never."""
        return -math.inf

    async def trouble(self, life: Life, run: Run, subscriber: Subscriber,
                      at_pubrec: Callable[[], Awaitable[None]]) -> None:
        """Do what this life has for the upstream.

        at_pubrec: waits until the upstream was killed right at its next PUBREC, a while at most.
        """
        raise NotImplementedError

    async def _end(self, life: Life, run: Run, subscriber: Subscriber,
                   end: Callable[[], object]) -> None:
        """End it by `end`, look what it had saved, start it again."""
        subscriber.upstream_killed()
        await run(end)
        subscriber.upstream_saved(self.saved_s())
        await asyncio.sleep(life.for_s)
        await run(self.server.start)


class MosquittoUpstream(Upstream):
    """Mosquitto, with the persistence of its kind."""

    def __init__(self, plan: Round, folder: Path) -> None:
        self._kind = plan.upstream
        self.server: Mosquitto = Mosquitto(
            folder, persistence=plan.upstream != "forgetful",
            # one that is never killed need not save before its end, which makes it much faster
            extra=["autosave_on_changes false"] if plan.upstream == "safe" else [])

    def saved_s(self) -> float:
        """By its file, which it writes aside and renames."""
        try:
            age_s = time.time() - (self.server.folder / "mosquitto.db").stat().st_mtime
        except FileNotFoundError:
            return -math.inf
        return time.monotonic() - age_s

    async def trouble(self, life: Life, run: Run, subscriber: Subscriber,
                      at_pubrec: Callable[[], Awaitable[None]]) -> None:
        """It ends, by the plan's kind."""
        if self._kind == "safe":
            await run(self.server.stop)
            await asyncio.sleep(life.for_s)
            await run(self.server.start)
            return
        if life.amount % 2:
            await at_pubrec()
        await self._end(life, run, subscriber, self.server.kill)


class EmqxUpstream(Upstream):
    """The stand-in, with EMQX's limits; the judge alone needs a long queue.

    At 3.1.1 no broker can say how many messages it holds, and EMQX has to hold one more than are
    in flight: full, it hangs up also on what it holds. One that is to take more than it does
    by itself has to be told so, see docs/upstreams.md.
    """

    def __init__(self, plan: Round, folder: Path) -> None:
        self._kind, self._v5 = plan.upstream, plan.protocol == "5"
        held = AWAITING_REL if self._v5 else max(AWAITING_REL, plan.inflight + 1)
        self.server: Emqx = Emqx(folder, max_mqueue_len=1_000_000, max_awaiting_rel=held)

    async def trouble(self, life: Life, run: Run, subscriber: Subscriber,
                      at_pubrec: Callable[[], Awaitable[None]]) -> None:
        """It ends and forgets, or is as it is."""
        server, kind = self.server, life.amount % 4
        if self._kind != "safe":
            if kind == 3:
                await run(self._kick)
                return
            if kind == 1:
                await at_pubrec()
            await self._end(life, run, subscriber, server.stop if kind == 2 else server.kill)
        elif kind == 0:
            await run(lambda: server.order("cut"))
        elif kind == 1:
            await self._take_over(await run(self._clients))
        elif kind == 2 and self._v5:  # at 3.1.1 the limiter drops in silence
            await self._for_a_while("quota_exceeded", True, life, run)
        else:
            await self._for_a_while("reading", False, life, run)

    async def _for_a_while(self, name: str, value: bool, life: Life, run: Run) -> None:
        await run(lambda: self.server.set(**{name: value}))
        await asyncio.sleep(life.for_s)
        await run(lambda: self.server.set(**{name: not value}))

    def _clients(self) -> list[str]:
        """The client identifiers that are connected, without the judge's."""
        sessions = self.server.stats()["sessions"]
        return [name for name, told in sessions.items() if told["connected"] and name != JUDGE]

    def _kick(self) -> None:
        for name in self._clients():
            self.server.order("kick", client=name)

    async def _take_over(self, clients: object) -> None:
        """Connect under the gateway's name and go away again."""
        assert isinstance(clients, list)
        for name in clients:
            reader, writer = await asyncio.open_connection(HOST, self.port)
            writer.write(mqtt.connect(name, clean=False, keepalive_s=60, will=None))
            await reader.read(4)
            writer.close()


def make_upstream(plan: Round, folder: Path) -> Upstream:
    """The upstream of a round, not started."""
    kinds = {"mosquitto": MosquittoUpstream, "emqx": EmqxUpstream}
    return kinds[plan.broker](plan, folder)
