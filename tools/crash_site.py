"""What stands around the gateway in a crash run, and how each part of it is broken.

devices ── proxy ── gateway (the real one, a process) ── proxy with a tap ── upstream ── judge
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from tools.crash_devices import Contract, Device, Plain
from tools.crash_plan import Life, Round
from tools.crash_subscriber import Subscriber
from tools.crash_upstream import make_upstream
from tools.crash_verdict import AfterLostSession
from tools.crash_wire import WireLog
from tools.ports import HOST, free_port
from tools.procs import Child
from tools.proxy import Proxy
from tools.proxy_link import Fault

T = TypeVar("T")
TICK_S = 0.01
WILL_GRACE_S = 1.5
MAYFLIES = 4


class Site:
    """The parts of one round. `open`, break what you like, `heal`, `close`.

    outbox: from folder. checkout: whose gateway is run, to compare; None for this one.
    """

    def __init__(self, plan: Round, folder: Path, *, fault: str = "",
                 outbox: Path = Path("outbox.db"),
                 after_lost_session: AfterLostSession = "resend",
                 checkout: Path | None = None) -> None:
        self.plan, self.folder = plan, folder
        self.after_lost_session = after_lost_session
        self._outbox = outbox
        self.rng = random.Random(plan.seed)
        self.upstream = make_upstream(plan, folder / "upstream")
        self.wire = WireLog(self._on_kind, v5=plan.protocol == "5")
        self.on_kind: Callable[[str], None] = lambda name: None
        self._upstream_dies_on = ""
        self.boost = 1.0
        self.producing = True
        self.complaints: list[str] = []
        self.gateway: Child | None = None
        self.devices: list[Device] = []
        self.mayflies: list[Contract] = []
        self.gone: list[Contract] = []
        self._fault, self._checkout = fault, checkout
        self._gateway_port = free_port()
        self._log = folder / "gateway.log"
        # children die with the thread that started them, see tools.procs
        self._children = ThreadPoolExecutor(1, "children")
        self._ticking: asyncio.Task[None] | None = None

    async def in_thread(self, job: Callable[[], T]) -> T:
        """Run what blocks in the thread of the children."""
        return await asyncio.get_running_loop().run_in_executor(self._children, job)

    def _on_kind(self, name: str) -> None:
        if name == self._upstream_dies_on:
            self._upstream_dies_on = ""
            self.upstream.die()
        self.on_kind(name)

    async def open(self) -> None:
        """Start all but the gateway."""
        await self.in_thread(self.upstream.start)
        self.up = Proxy(self.upstream.port, seed=self.plan.seed)
        self.up.tap, self.up.on_end = self.wire.tap, self.wire.forget
        self.down = Proxy(self._gateway_port, seed=self.plan.seed + 1)
        await self.up.start()
        await self.down.start()
        self.subscriber = Subscriber(self.upstream.port, random.Random(self.plan.seed))
        self.subscriber.start()
        await self.until(lambda: self.subscriber.subscribed, 10.0, "the subscriber's SUBACK")
        (self.folder / "tidegate.toml").write_text(self._config(), encoding="utf-8")
        self._make_devices()
        for device in [*self.devices, *self.mayflies]:
            device.start()
        self._ticking = asyncio.get_running_loop().create_task(self._tick())

    def _config(self) -> str:
        return (
            'id = "crash"\n'
            f'[listener]\nlisten = "{HOST}:{self._gateway_port}"\nwill_grace_s = {WILL_GRACE_S}\n'
            f'[outbox]\npath = "{self._outbox}"\ncommit_ms = {self.plan.commit_ms}\n'
            f'[upstream]\nurl = "mqtt://{HOST}:{self.up.port}"\n'
            f'inflight = {self.plan.inflight}\nprotocol = "{self.plan.protocol}"\n'
            + ('after_lost_session = "drop"\n' if self.after_lost_session == "drop" else "") +
            '[[route]]\nfilter = "q1/#"\nupgrade = 1\n'
            '[[route]]\nfilter = "#"\nupgrade = 2\n'
        )

    def _make_devices(self) -> None:
        rng, port, rate = self.rng, self.down.port, self.plan.rate

        def own() -> random.Random:
            return random.Random(rng.randrange(1 << 32))

        def plain(name: str, topic: str, qos: int, min_qos: int) -> Plain:
            return Plain(port, name, own(), topic=topic, qos=qos, window=rng.choice((1, 5, 20)),
                         rate=30 * rate, min_qos=min_qos)

        self.devices = [
            *(plain(f"p{i}", f"plain/p{i}/x", 1, 2) for i in range(4)),
            *(plain(f"q{i}", f"q1/q{i}/x", 1, 1) for i in range(2)),
            *(plain(f"e{i}", f"exact/e{i}", 2, 2) for i in range(2)),
            *(Contract(port, f"c{i}", own(), rate=50 * rate, batch=rng.choice((1, 10, 40)),
                       min_qos=2) for i in range(3)),
        ]
        self.mayflies = [Contract(port, f"w{i}", own(), rate=0, batch=1, min_qos=2)
                         for i in range(MAYFLIES)]

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        last_s = loop.time()
        while True:
            await asyncio.sleep(TICK_S)
            now_s = loop.time()
            for device in self.devices:
                device.tick(now_s - last_s if self.producing else 0.0, now_s, self.boost)
            last_s = now_s

    async def until(self, ready: Callable[[], bool], limit_s: float, what: str,
                    progress: Callable[[], object] = lambda: None) -> bool:
        """Wait until `ready`; after limit_s [s] without progress note that `what` is missing."""
        loop = asyncio.get_running_loop()
        deadline_s, before = loop.time() + limit_s, progress()
        while not ready():
            await asyncio.sleep(0.01)
            if progress() != before:
                deadline_s, before = loop.time() + limit_s, progress()
            if loop.time() > deadline_s:
                self.complaints.append(f"waited {limit_s:.0f} s in vain for {what}")
                return False
        return True

    # --- the gateway

    async def start_gateway(self, life: Life | None) -> None:
        """Start it with the disk of this life; None for one that nothing ails."""
        env = {"TIDEGATE_FAULT": self._fault}  # planted alone, so that nothing hides it
        module = ["-m", "tools.faulty_gateway"]
        if life is not None and not self._fault and (life.disk or life.live_most):
            env |= {"TIDEGATE_DISK": life.disk, "TIDEGATE_LIVE_MOST": str(life.live_most or "")}
        elif not self._fault:
            module = ["-c", "from gateway.cli import main; main()"]
        config = str(self.folder / "tidegate.toml")
        self.gateway = Child([sys.executable, *module, "run", "-c", config], log=self._log,
                             env=env, cwd=self._checkout)
        await self.in_thread(self.gateway.start)

    def kill_gateway(self, *, polite_s: float = 0.0) -> None:
        """SIGKILL, at once or polite_s [s] after a SIGTERM; `reap` afterwards."""
        gateway = self.gateway
        if gateway is None:
            return
        if not gateway.running:
            self.complaints.append(f"the gateway ended by itself with {gateway.returncode}: "
                                   f"{gateway.tail(3)}")
            return
        self.wire.gateway_dies()
        if polite_s:
            os.kill(gateway.pid, signal.SIGTERM)
            asyncio.get_running_loop().call_later(polite_s, gateway.kill)
        else:
            os.kill(gateway.pid, signal.SIGKILL)

    async def reap(self, polite_s: float = 0.0) -> None:
        """Wait for the end of a killed gateway."""
        if self.gateway is not None:
            await asyncio.sleep(polite_s)
            await self.in_thread(self.gateway.kill)

    async def stop_gateway(self) -> None:
        """SIGTERM; it has to end well."""
        if self.gateway is not None:
            code = await self.in_thread(self.gateway.stop)
            if code != 0:
                self.complaints.append(f"the gateway ended with {code} on SIGTERM: "
                                       f"{self.gateway.tail(3)}")

    async def set_aside(self) -> list[str]:
        """What lies in the outbox as refused, for people; the gateway is stopped."""
        config = str(self.folder / "tidegate.toml")
        command = [sys.executable, "-c", "from gateway.cli import main; main()", "outbox", "-c",
                   config, "export", "-"]
        done = await self.in_thread(lambda: subprocess.run(
            command, capture_output=True, text=True, check=False))
        if done.returncode:
            return [f"cannot read the outbox: {done.stderr[-300:]}"]
        rows = map(json.loads, done.stdout.splitlines())
        return [f"{row['topic']} {row}" for row in rows if row["lane"] == "refused"]

    # --- troubles

    async def trouble(self, life: Life) -> None:
        """Do what the plan says for this life, to its end."""
        await asyncio.sleep(life.at_s)
        await self._cause(life)
        if life.trouble in ("blackhole-up", "blackhole-down", "throttle-up", "throttle-down"):
            await asyncio.sleep(life.for_s)
            (self.up if life.trouble.endswith("up") else self.down).heal()

    async def _cause(self, life: Life) -> None:
        slow = Fault(bytes_per_s=max(life.amount, 2000), latency_s=0.02, jitter_s=0.03)
        match life.trouble:
            case "cut-up":
                self.up.cut(reset=life.amount % 2 == 0)
            case "cut-down":
                self.down.cut(reset=life.amount % 2 == 0)
            case "middle-up":
                self.up.set_fault(Fault(cut_after=life.amount), "up")
            case "blackhole-up":
                self.up.set_fault(Fault(blackhole=True))
            case "blackhole-down":
                self.down.set_fault(Fault(blackhole=True))
            case "throttle-up":
                self.up.set_fault(slow)
            case "throttle-down":
                self.down.set_fault(slow)
            case "upstream":
                await self.upstream.trouble(life, self.in_thread, self.subscriber,
                                            self._at_pubrec)
            case "reboot":
                for device in self.devices:
                    if isinstance(device, Contract):
                        device.reboot()
            case "flood":
                self.boost = 10.0
                await asyncio.sleep(life.for_s)
                self.boost = 1.0
            case "vanish":
                if len(self.mayflies) > 2:
                    self.gone.append(self.mayflies.pop())
                    self.gone[-1].vanish()

    async def _at_pubrec(self) -> None:
        """Wait until the upstream died right as it sent a PUBREC, which is when it knows most."""
        self._upstream_dies_on = "PUBREC"
        loop = asyncio.get_running_loop()
        deadline_s = loop.time() + 0.5
        while self._upstream_dies_on and loop.time() < deadline_s:
            await asyncio.sleep(0.01)
        self._upstream_dies_on = ""

    def heal(self) -> None:
        """Take away every fault of both links."""
        self.up.heal()
        self.down.heal()
        self.boost = 1.0

    async def close(self) -> None:
        """End everything that was started."""
        if self._ticking is not None:
            self._ticking.cancel()
        clients = [*self.devices, *self.mayflies, *self.gone]
        if hasattr(self, "subscriber"):
            clients.append(self.subscriber)  # type: ignore[arg-type]
        await asyncio.gather(*(client.leave() for client in clients))
        if self.gateway is not None:
            await self.in_thread(self.gateway.kill)
        for proxy in (getattr(self, "up", None), getattr(self, "down", None)):
            if proxy is not None:
                await proxy.stop()
        await self.in_thread(self.upstream.kill)
        self._children.shutdown()
