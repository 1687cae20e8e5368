"""Another program that serves a loopback port, for as long as a test needs it."""

from __future__ import annotations

from pathlib import Path

from tools.lifetime import Startable
from tools.ports import PortError, free_port, wait_for_port
from tools.procs import Child, ChildError


class Served(Startable):
    """A server in a process of its own; stopped when the `with` block ends.

    folder: its files, and what it says in `program.log`.
    """

    start_s = 30.0

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.port = folder, free_port()
        self.child = Child(self._command(), log=folder / "program.log", cwd=folder)

    def _command(self) -> list[str]:
        raise NotImplementedError

    def start(self) -> None:
        """Start it, or start it again, and wait until it listens."""
        self.child.start()
        try:
            wait_for_port(self.port, self.start_s, alive=lambda: self.child.running)
        except PortError as error:
            tail = self.child.tail(3)
            self.child.kill()
            raise ChildError(f"{type(self).__name__} did not start: {error}; {tail}") from None

    def stop(self) -> None:
        """Stop it."""
        self.child.stop()
