"""What keeps a virtual board running: its process, its wire and its power.

All of it happens in the reactor's thread. States: without power (no process), running, serving
(a bare chip that a flashing tool talks to), in deep sleep (no process, an alarm is set).
"""

from __future__ import annotations

import json
import threading
from concurrent.futures import Future
from typing import Any

from tools.virtual.air import Air
from tools.virtual.console import Console
from tools.virtual.flash import FREE, Flash
from tools.virtual.hardware import Hardware
from tools.virtual.network import Network
from tools.virtual.process import JailError, Process
from tools.virtual.reactor import READ, Alarm, Reactor
from tools.virtual.rootfs import Rootfs
from tools.virtual.uart import Uart

POWER_ON, HARD, WATCHDOG, DEEP_SLEEP, SOFT = 1, 2, 3, 4, 5  # machine.reset_cause()
SERVE_HEAP_KB = 1024


class BoardStoppedError(RuntimeError):
    """The interpreter ended by itself, which a board cannot do."""


class Supervisor:
    """One board's chip and what is around it.

    off: set while it has no power; serving: gets the number of the question a bare chip waits
    on; code: gets the answer of the piece that it runs.
    """

    def __init__(
        self,
        rootfs: Rootfs,
        flash: Flash,
        hardware: Hardware,
        console: Console,
        *,
        heap_kb: int,
        ssid: str | None,
        password: str | None,
        network: Network,
        pty: bool,
    ) -> None:
        flash.take()
        self.rootfs, self.flash, self.hardware = rootfs, flash, hardware
        self.console, self.heap_kb = console, heap_kb
        self.heap_base = self.heap_total = self.boots = 0
        self.off = threading.Event()
        self.off.set()
        self.process: Process | None = None
        self.code: Future[Any] | None = None
        self.serving: Future[int] | None = None
        self.died: BaseException | None = None
        self.reactor = Reactor(f"board {flash.image.stem}")
        self.air = Air(self.reactor, ssid, password, network)
        self.uart = Uart(self.reactor, console, pty=pty)
        self._partial = b""
        self._cause = POWER_ON
        self._mode = "run"
        self._watchdog: tuple[float, Alarm] | None = None
        self._sleep: Alarm | None = None

    def boot(self, cause: int, mode: str = "run") -> None:
        """Give the chip power, or let it begin again; `cause` as machine.reset_cause()."""
        if self.process is not None:
            return
        if cause == POWER_ON:
            self.hardware.power(True)
        self.off.clear()
        self._cause, self._mode, self._partial = cause, mode, b""
        self.console.fresh_line()
        heap_kb = SERVE_HEAP_KB if mode == "serve" else self.heap_kb
        self.process = Process(self.rootfs, self.flash, heap_kb)
        self.air.power(mode == "run")
        self.boots += mode == "run"
        self.reactor.watch(self.process.wire.fileno(), READ, self._heard)
        self.uart.attach(self.process, serving=mode == "serve")

    def _halt(self) -> int:
        """End the process; gives its exit code."""
        process = self.process
        if process is None:
            return 0
        self.uart.detach()
        self.reactor.watch(process.wire.fileno(), 0, self._heard)
        self.process = None
        return process.kill()

    def _lose(self) -> None:
        """Stop as the chip does when it restarts or loses power: in silence."""
        if self._watchdog:  # it outlives a soft reset, as on the chip: only this ends it
            self._watchdog[1].cancel()
            self._watchdog = None
        self.air.power(False)
        self._halt()

    def cut(self) -> None:
        """Take the power away."""
        was_on = self.process is not None and self._mode == "run"
        if self._sleep:
            self._sleep.cancel()
            self._sleep = None
        self._lose()
        self.uart.raw = False
        self.flash.disarm()
        self.hardware.power(False)
        if was_on:
            self.console.note("power cut")
        self.off.set()

    def restart(self, cause: int) -> None:
        """Let the chip begin again."""
        if self.process is None:
            return
        if cause == SOFT:
            self._halt()
        else:
            self._lose()
            self.uart.raw = False
        self.hardware.reset()
        self.boot(cause)

    def shut(self) -> None:
        """Let go of everything."""
        self.cut()
        self.air.close()
        self.uart.close()
        self.flash.release()

    def reply(self, number: int, value: Any, error: Any = None) -> None:
        """Answer one question of the firmware."""
        if self.process is None:
            return
        line = json.dumps([number, value, error, self.hardware.take_pending()])
        self.process.wire.setblocking(True)
        try:
            self.process.wire.sendall(line.encode() + b"\n")
        except OSError:
            pass  # it died; the next read of its wire tells
        if self.process is not None:
            self.process.wire.setblocking(False)

    def _heard(self, _events: int) -> None:
        """Take what came over the wire."""
        if self.process is None:
            return
        try:
            data = self.process.wire.recv(65536)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._gone()
            return
        *lines, self._partial = (self._partial + data).split(b"\n")
        for line in lines:
            if self.process is None:
                return
            number, what, *words = json.loads(line)
            try:
                answer = self._act(number, what, words)
            except OSError as error:
                self.reply(number, None, error.args[0] if error.args else str(error))
                continue
            if number and answer is not ...:
                self.reply(number, answer)

    def _gone(self) -> None:
        """The interpreter ended by itself."""
        self.uart.drain()
        process = self.process
        assert process
        try:
            process.ended()
            died: BaseException | None = None
        except JailError as error:
            died = error
        self._lose()
        code = process.kill()
        self.died = died or BoardStoppedError(f"the interpreter ended by itself with {code}")
        self.console.note(str(self.died))
        for waiting in (self.serving, self.code):
            if waiting is not None and not waiting.done():
                waiting.set_exception(self.died)
        self.off.set()

    def _act(self, number: int, what: str, words: list[Any]) -> Any:
        """Do what one message asks; gives the answer, `...` where none is due now."""
        if what == "boot":
            costs = FREE if self._mode == "serve" else self.flash.costs
            return {
                "mode": self._mode,
                "blocks": self.flash.blocks,
                "value": [round(costs.read_ms * 1000), round(costs.erase_ms * 1000), 0],
                "raw": self.uart.raw,
                "wire": not self.hardware.fitted,
            }
        if what == "config":
            self.hardware.fit_as_told(words[0])
            return None
        if what == "kbd":
            self.uart.drain()
            self.uart.interruptible = words[0] == 3
            return None
        if what == "raw":
            self.uart.drain()
            self.uart.raw = words[0]
            return None
        if what == "cause":
            return self._cause
        if what == "wake":
            return 4 if self._cause == DEEP_SLEEP else 0
        if what == "base":
            self.heap_base, self.heap_total = int(words[0]), int(words[1])
            return None
        if what == "wifi":
            return self.air.request(words[0], words[1])
        if what == "network":
            network = self.air.network
            return None if network.at_once else [network.piece_bytes, network.rest_ms]
        if what == "route":
            self._route(number, str(words[0]), int(words[1]))
            return ...
        if what in ("wdt", "feed"):
            self._feed(words[0] / 1000 if words else None)
            return None
        if what == "reset":
            self.restart(SOFT if words[0] == "soft" else HARD)
            return ...
        if what == "power":
            self.cut()
            return ...
        if what == "sleep":
            self._deep_sleep(int(words[0]))
            return ...
        if what == "next":
            if self.serving is not None:
                self.serving.set_result(number)
            return ...
        if what == "done":
            if self.code is not None and words[1] is None:
                self.code.set_result(words[0])
            elif self.code is not None:
                self.code.set_exception(RuntimeError(f"on the board: {words[1]}"))
            return None
        if what == "corrupt":
            self.console.note("the flash holds no file system")
            return None
        return self.hardware.answer(what, words)

    def _route(self, number: int, host: str, port: int) -> None:
        """Look a host up, which takes its time; the board stands meanwhile, as a real one does."""
        asked = self.process

        def answer() -> None:
            if self.process is not asked:
                return
            try:
                self.reply(number, self.air.route(host, port))
            except OSError as error:
                self.reply(number, None, error.args[0])

        self.reactor.later(self.air.look_up_s(host), answer)

    def _feed(self, timeout_s: float | None) -> None:
        if self._watchdog:
            self._watchdog[1].cancel()
            timeout_s = timeout_s or self._watchdog[0]
        if timeout_s:
            bark = self.reactor.later(timeout_s, self._bark)
            self._watchdog = (timeout_s, bark)

    def _bark(self) -> None:
        self._watchdog = None
        self.console.note("watchdog reset")
        self.restart(WATCHDOG)

    def _deep_sleep(self, sleep_ms: int) -> None:
        self._lose()
        self.hardware.reset()
        self.console.note(f"deep sleep {sleep_ms} ms")
        if sleep_ms:
            self._sleep = self.reactor.later(sleep_ms / 1000, lambda: self.boot(DEEP_SLEEP))
