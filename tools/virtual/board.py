"""A virtual board: the real MicroPython, the firmware's own files, and a world around it.

    with VirtualBoard(image=tmp / "a.img", files=Path("device"), config=settings) as board:
        board.wait(r"^rec ")                      # a console line, within 10 s
        board.world.set("air", temperature_c=-3)  # the sensor named "air" now feels this
        board.wifi(False)                         # the access point is gone
        board.power_cut()                         # SIGKILL; the flash keeps what it holds
        board.power_on()
        board.cut_after(17, part=0.5)             # lose the power in the middle of a flash write
        board.wait_off()
        print(sum(board.flash.erases()))

Every method may be called from any thread. `stop` (or the end of the `with`) leaves no process.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any, Self

from tools import boards, firmware
from tools.cachedir import Say, silent
from tools.lifetime import Startable
from tools.virtual import pieces, rootfs
from tools.virtual.air import Air
from tools.virtual.console import Console, LineListener
from tools.virtual.flash import CHIP, Costs, Flash
from tools.virtual.hardware import Hardware
from tools.virtual.network import Network
from tools.virtual.network import default as default_network
from tools.virtual.parts import Part
from tools.virtual.supervisor import HARD, POWER_ON, Supervisor
from tools.virtual.world import World

LIMIT_S = 20.0
# What an image has built in and a virtual board has in its heap: 13 to 17 KB, and the table of
# names, which both share here and which grows in steps (docs/firmware.md, "Heap").
STAND_INS_KB = 26


class VirtualBoard(Startable):
    """A board; see the module's example.

    board: the board file; image: where its flash is kept, made where it is not there; files: the
    firmware's folder, which goes into a slot, or a mapping of paths to contents, put on the flash
    at `start` (a slot that is among them is chosen); config:
    written to /config.json then. heap_kb [KiB]: all of it, stand-ins included; without it the
    firmware has what the board file says. pty: give it a serial
    port, `port`. on_line: is called with each console line, in the board's thread. access_point:
    name and password it wants, None: any; by default those of `config`. network: how long things
    take behind it. flash_costs: what reads and erases take; nothing while a flashing tool has the
    board.
    """

    def __init__(
        self,
        *,
        image: Path,
        board: str = "virtual",
        files: Path | Mapping[str, bytes] | None = None,
        config: Mapping[str, Any] | None = None,
        world: World | None = None,
        heap_kb: int | None = None,
        pty: bool = False,
        on_line: LineListener | None = None,
        access_point: tuple[str | None, str | None] | None = None,
        network: Network | None = None,
        flash_costs: Costs = CHIP,
        say: Say = silent,
    ) -> None:
        self.board = boards.load(board)
        self.world = world or World()
        self.flash = Flash(image, self.board.filesystem_blocks, flash_costs)
        self.console = Console(on_line)
        self.config: dict[str, Any] = dict(config or {})
        self.heap_kb = heap_kb or self.board.heap_kb + STAND_INS_KB
        self.hardware = Hardware(self.world, image.stem, self.flash.nvs)
        self._files = files
        self._say = say
        self._access_point = access_point
        self._network = network or default_network()
        self._want_pty = pty
        self._core: Supervisor | None = None

    # What the world does to it.

    def start(self) -> Self:
        """Put the files on the flash, if any were given, and switch the power on."""
        wifi = self.config.get("wifi") or {}
        wanted = (wifi.get("ssid"), wifi.get("password"))
        ssid, password = wanted if self._access_point is None else self._access_point
        self._core = Supervisor(
            rootfs.prepare(self._say),
            self.flash,
            self.hardware,
            self.console,
            heap_kb=self.heap_kb,
            ssid=ssid,
            password=password,
            network=self._network,
            pty=self._want_pty,
        )
        if self.config:
            self.hardware.fit(self.config.get("sensors") or [])
        if not self.flash.exists:
            self.flash.erase()
        files = self._files
        contents = (
            firmware.laid_out(firmware.collect(files))
            if isinstance(files, Path)
            else dict(files or {})
        )
        if self.config:
            contents["config.json"] = json.dumps(self.config, ensure_ascii=False).encode()
        if contents:
            self.install(contents)
        for number, slot in enumerate(firmware.SLOTS):
            if f"{slot[1:]}/{firmware.MANIFEST}" in contents:
                self.hardware.nvs.choose(number)
        self.power_on()
        return self

    def stop(self) -> None:
        """Switch it off for good; harmless when it is off. Leaves no process."""
        if self._core is not None and self._core.reactor.alive:
            self._core.reactor.do(self._core.shut)
            self._core.reactor.stop()

    def power_on(self) -> None:
        """Switch the power on."""
        self._do(lambda core: core.boot(POWER_ON))

    def power_cut(self) -> None:
        """Take the power away at once. The network is told nothing."""
        self._do(Supervisor.cut)

    def cut_after(self, operations: int, part: float = 0.5) -> None:
        """Take the power away in the `operations`-th flash write or erase from now.

        part: how much of that operation is done, 0 to 1. `wait_off` waits for it.
        """
        self.core.off.clear()
        self.flash.arm(operations, part)

    def wait_off(self, timeout_s: float = LIMIT_S) -> bool:
        """Wait until the board is without power; says whether it is."""
        return self.core.off.wait(timeout_s)

    def reset(self) -> None:
        """Press the reset button."""
        self._do(lambda core: core.restart(HARD))

    def wifi(self, on: bool) -> None:
        """Switch the access point off or on; nothing gets through in between."""
        self._do(lambda core: core.air.switch(on))

    def network_silent(self, silent: bool) -> None:
        """Let the network behind the access point carry nothing: the board is not told."""
        self._do(lambda core: core.air.silence(silent))

    def drive(self, pin: int, level: int) -> None:
        """Set an input pin's level: press the board's button, open a contact."""
        self._do(lambda core: core.hardware.drive(pin, level))

    def attach(self, part: Part, pin: int | None = None) -> None:
        """Wire up a part that the settings do not name."""
        self.hardware.attach(part, pin)

    def type_in(self, data: bytes) -> None:
        """Type on its console."""
        self._do(lambda core: core.uart.typed(data))

    def wait(self, pattern: str, timeout_s: float = 10.0, after: int = 0) -> re.Match[str]:
        """Wait for a console line; see `Console.wait`."""
        return self.console.wait(pattern, timeout_s, after)

    @property
    def core(self) -> Supervisor:
        """Give what keeps it running; RuntimeError before `start`."""
        if self._core is None:
            raise RuntimeError("the virtual board was not started")
        return self._core

    @property
    def air(self) -> Air:
        """Give the radio around it."""
        return self.core.air

    @property
    def port(self) -> str:
        """Give the path of its serial port, a pty."""
        terminal = self.core.uart.terminal
        if terminal is None:
            raise RuntimeError("this virtual board was started without a pty")
        return terminal.path

    @property
    def pid(self) -> int | None:
        """Give the interpreter's process id, None without power."""
        process = self.core.process
        return process.pid if process else None

    @property
    def boots(self) -> int:
        """Count how often the firmware began."""
        return self.core.boots

    @property
    def heap_base(self) -> int:
        """Give what the stand-ins took of the heap before boot.py [bytes]."""
        return self.core.heap_base

    @property
    def heap_total(self) -> int:
        """Give the size of the Python heap, used and free [bytes]."""
        return self.core.heap_total

    def erases(self) -> list[int]:
        """Give each flash block's erases so far."""
        return self.flash.erases()

    # The flash, while the board is off: what a flashing tool on a wire could do.

    def install(self, files: Mapping[str, bytes]) -> None:
        """Put files on the flash, which gets a file system where it has none. Board off."""
        code = [pieces.MOUNT]
        for path, content in files.items():
            code += pieces.write(path, content)
        self.serve(code)

    def read_file(self, path: str) -> bytes:
        """Give the contents of a file on the flash. Board off."""
        hexed = self.serve([pieces.MOUNT, pieces.read(path)])
        return bytes.fromhex(str(hexed))

    def list_files(self) -> dict[str, int]:
        """Give every file on the flash and its size [bytes]. Board off."""
        found = self.serve([pieces.MOUNT_ONLY, pieces.LIST])
        return dict(found)

    def serve(self, code: list[str]) -> Any:
        """Run pieces of MicroPython on the bare board, files unmounted; gives the last answer.

        A piece sets `answer[0]`; `flash` is the chip. Raises RuntimeError where one fails.
        """
        core = self.core
        if core.process is not None:
            raise RuntimeError("the board has power: switch it off first")
        ready: Future[int] = Future()
        core.serving = ready
        self._do(lambda core: core.boot(POWER_ON, mode="serve"))
        answer = None
        try:
            for piece in code:
                number = ready.result(timeout=LIMIT_S)
                ready = core.serving = Future()
                done = core.code = Future()
                self._do(lambda core, n=number, p=piece: core.reply(n, p))
                answer = done.result(timeout=LIMIT_S)
            ready.result(timeout=LIMIT_S)
        finally:
            core.code = core.serving = None
            self._do(Supervisor.cut)
        return answer

    def _do(self, action: Callable[..., None]) -> None:
        """Have `action(core)` done in the board's thread. Raises what ended the board, once."""
        core = self.core
        if core.died is not None:
            died, core.died = core.died, None
            raise died
        core.reactor.do(lambda: action(core))
