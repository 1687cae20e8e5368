"""A real board of the bench: on loan, on a serial port, its sensors fed, its power on a relay."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import serial

from tools.board_errors import LinkError
from tools.hil import loan
from tools.hil.bench import Entry, NoBoardError
from tools.hil.bench_boards import Ledger
from tools.hil.feeder import Feeder
from tools.procs import ChildError
from tools.virtual.console import Console, NotSaidError

BAUD = 115_200
START_S = 30.0
WRITE_S = 1.0
AT_FIRST: Mapping[str, Mapping[str, float]] = {
    "air": {"temperature_c": 21.0, "humidity_pct": 45.0},
    "flow": {"temperature_c": 21.0},
    "supply": {"battery_v": 2.0},
}
"""What the sensors feel where no recording says it: those of a virtual board of the bench."""


class Relay:
    """A relay in a board's supply, driven by gpiozero. At rest the board has power."""

    def __init__(self, pin: int) -> None:
        from gpiozero import OutputDevice

        self._device = OutputDevice(pin, initial_value=False)

    def cut(self) -> None:
        """Let it draw: the board has no power."""
        self._device.on()

    def rest(self) -> None:
        """Let it fall: the board has power."""
        self._device.off()

    def close(self) -> None:
        """Leave it at rest."""
        self._device.off()
        self._device.close()


class Real:
    """A board on a serial port. host, port: the gateway it is to send to, as it reaches it.

    feels: by sensor, what it feels at first; None: AT_FIRST.
    """

    def __init__(self, entry: Entry, folder: Path, host: str, port: int, *,
                 feels: Mapping[str, Mapping[str, float]] | None = None,
                 period_s: float = 0.5) -> None:
        self.name, self._entry = entry.name, entry
        self._host, self._gateway_port, self._period_s = host, port, period_s
        self.ledger = Ledger(entry.name, folder / f"{entry.name}.console.log")
        self.console = Console(self._line)
        self._feeder = Feeder(feels or AT_FIRST, self.type_in)
        self._relay = Relay(entry.relay) if entry.relay is not None else None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._listen, name=entry.name, daemon=True)
        self._port: serial.Serial | None = None

    @property
    def world(self) -> Feeder:
        """What its playback sensors feel."""
        return self._feeder

    def _find(self) -> str:
        path = self._entry.find_port()
        if path is None:
            raise NoBoardError(f"{self.name} is not plugged in")
        return path

    def _line(self, line: str) -> None:
        self.ledger.line(line)
        self._feeder.heard(line)

    def start(self) -> None:
        """Lend it to the bench, start its firmware and hear it from its first line on.

        Raises ChildError, NoBoardError.
        """
        try:
            loan.lend(self._find(), self.name, self._host, self._gateway_port,
                      self._feeder.sensors, board=self._entry.kind, period_s=self._period_s,
                      firmware=self._entry.deploy)
        except LinkError as error:
            raise ChildError(f"{self.name}: {error}") from error
        self._port = self._open()
        self._thread.start()
        self.type_in(b"\x04")  # at its prompt: boot.py and main.py from an empty heap
        try:
            said = self.console.wait(r"^tidegate |^config\.json:", START_S).string
            if said.startswith("config.json"):
                raise ChildError(f"{self.name}: {said}")
        except NotSaidError as error:
            last = self.console.lines[-1:] or ["nothing"]
            raise ChildError(f"{self.name}: its firmware did not start within {START_S:.0f} s; "
                             f"it said {last[0]!r}") from error
        self._feeder.start()

    def _open(self) -> serial.Serial:
        return serial.Serial(self._find(), BAUD, timeout=0.1, write_timeout=WRITE_S,
                             exclusive=True)

    def _listen(self) -> None:
        while not self._over.is_set():
            try:
                if self._port is None:
                    self._port = self._open()
                self.console.feed(self._port.read(4096))
            except (OSError, NoBoardError):  # its power is cut
                self._shut()
                self._over.wait(0.1)
        self._shut()

    def _shut(self) -> None:
        port, self._port = self._port, None
        if port is not None:
            with suppress(OSError):
                port.close()

    def type_in(self, data: bytes) -> None:
        """Type on its console. OSError where it has none now."""
        port = self._port
        if port is None:
            raise OSError(f"{self.name} is not plugged in")
        try:
            port.write(data)
        except TypeError as error:  # pyserial, where it is being closed
            raise OSError(f"{self.name} went away") from error

    def stop(self) -> None:
        """Give it back: its power on, with its own settings. Raises ChildError."""
        self._feeder.stop()
        if self._relay is not None:
            self._relay.close()
        was_open = self._thread.ident is not None
        self._over.set()
        if was_open:
            self._thread.join()
        self.ledger.close()
        try:
            loan.give_back(self._find())
        except (LinkError, NoBoardError) as error:
            raise ChildError(f"{self.name} keeps the bench's settings until `tidegate hil "
                             f"give-back` or the next run: {error}") from error

    def power_on(self) -> None:
        """Give it power."""
        self._need_relay().rest()

    def power_cut(self) -> None:
        """Take its power."""
        self._need_relay().cut()

    def brownout(self) -> None:
        """Say that this cannot be aimed at a flash write on a real board."""
        raise NoBoardError(f"{self.name}: a brownout in a flash write needs a virtual board")

    def wifi(self, on: bool) -> None:
        """Say that the bench has no hand on a real access point."""
        raise NoBoardError(f"{self.name}: the access point of a real board cannot be switched")

    def _need_relay(self) -> Relay:
        if self._relay is None:
            raise NoBoardError(f"{self.name} has no relay")
        return self._relay

    @property
    def boots(self) -> int:
        """How often its firmware's first line was seen."""
        return sum(line.startswith("tidegate ") for line in self.console.lines)
