"""A virtual board that other programs can find, and do to it what hands do to a real one.

Each running board has a folder in the project's cache with what it is (`board.json`) and a
socket that takes one JSON request a connection: `{"do": "wifi", "on": false}`.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import tempfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tools import cachedir
from tools.lifetime import Closeable
from tools.virtual.board import VirtualBoard
from tools.virtual.world import DEFAULTS

LIMIT_S = 30.0


class ControlError(RuntimeError):
    """The virtual board did not do it. One line."""


@dataclass(frozen=True)
class Running:
    """A virtual board that runs somewhere on this machine."""

    port: str
    board: str
    image: str
    pid: int
    folder: str

    def do(self, what: str, **words: Any) -> Any:
        """Have something done to it. Raises ControlError."""
        with contextlib.closing(socket.socket(socket.AF_UNIX)) as link:
            link.settimeout(LIMIT_S)
            try:
                with _socket_in(Path(self.folder)) as path:
                    link.connect(path)
                link.sendall(json.dumps({"do": what, **words}).encode() + b"\n")
                answer = link.makefile().readline()
            except OSError as error:
                raise ControlError(f"{self.port}: the virtual board does not answer") from error
        if not answer:
            raise ControlError(f"{self.port}: the virtual board went away")
        said = json.loads(answer)
        if "error" in said:
            raise ControlError(f"{self.port}: {said['error']}")
        return said["answer"]


@contextlib.contextmanager
def _socket_in(folder: Path) -> Iterator[str]:
    """Give a path of the folder's socket that is short enough for one (107 characters)."""
    here = os.open(folder, os.O_PATH)
    try:
        yield f"/proc/self/fd/{here}/control"
    finally:
        os.close(here)


def _folder() -> Path:
    return cachedir.root() / "boards"


def running() -> list[Running]:
    """List the virtual boards that run on this machine, in this cache."""
    found = []
    for file in sorted(_folder().glob("*/board.json")):
        try:
            about = Running(folder=str(file.parent), **json.loads(file.read_text()))
            os.kill(about.pid, 0)
        except PermissionError:
            found.append(about)
        except (OSError, ValueError, TypeError):
            shutil.rmtree(file.parent, ignore_errors=True)
        else:
            found.append(about)
    return found


def find(port: str) -> Running | None:
    """Give the virtual board whose serial port this is."""
    return next((board for board in running() if board.port == port), None)


class Control(Closeable):
    """Makes a started board known and takes requests for it, until closed."""

    def __init__(self, board: VirtualBoard) -> None:
        self._board = board
        folder = _folder()
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = Path(tempfile.mkdtemp(dir=folder))
        self._listener = socket.socket(socket.AF_UNIX)
        with _socket_in(self._folder) as path:
            self._listener.bind(path)
        self._listener.listen(4)
        about = Running(
            board.port, board.board.id, str(board.flash.image.absolute()), os.getpid(), ""
        )
        words = {key: value for key, value in asdict(about).items() if key != "folder"}
        (self._folder / "board.json.new").write_text(json.dumps(words))
        (self._folder / "board.json.new").rename(self._folder / "board.json")
        self._thread = threading.Thread(target=self._serve, name="control", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Be found no more."""
        shutil.rmtree(self._folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                link, _ = self._listener.accept()
            except OSError:
                return
            with contextlib.closing(link), contextlib.suppress(OSError):
                link.settimeout(LIMIT_S)
                answer = self._answer(link.makefile().readline())
                link.sendall(json.dumps(answer).encode() + b"\n")

    def _answer(self, line: str) -> dict[str, Any]:
        try:
            words = json.loads(line)
            return {"answer": self._doers()[words.pop("do")](**words)}
        except KeyError as error:
            return {"error": f"cannot do {error}"}
        except Exception as error:
            return {"error": str(error)}

    def _doers(self) -> dict[str, Callable[..., Any]]:
        board = self._board
        return {
            "image": self._image,
            "power-cut": board.power_cut,
            "power-on": board.power_on,
            "reset": board.reset,
            "wifi": board.wifi,
            "silent": board.network_silent,
            "press": board.drive,
            "set": self._set,
            "status": lambda: {
                "on": not board.core.off.is_set(),
                "boots": board.boots,
                "erases": sum(board.erases()),
                "outputs": {str(pin): level for pin, level in board.hardware.outputs.items()},
            },
        }

    def _set(self, place: str, **quantities: float) -> None:
        """Set what a sensor feels. A board without settings may get some: any place will do."""
        fitted = self._board.hardware.sensors
        sensors = {**fitted, "chip": ("chip_c",)}
        if fitted and place not in sensors:
            raise ControlError(f"no sensor {place!r}; there are: {', '.join(sorted(sensors))}")
        can = sensors.get(place, tuple(DEFAULTS))
        for quantity in quantities:
            if quantity not in can:
                raise ControlError(f"no quantity {quantity!r}; there are: {', '.join(can)}")
        self._board.world.set(place, **quantities)

    def _image(self) -> int:
        """Do what flashing an image does: nothing of before is left. Gives the size [bytes]."""
        board = self._board
        board.power_cut()
        board.flash.erase()
        board.hardware.nvs.erase()
        board.power_on()
        return board.flash.blocks * 4096
