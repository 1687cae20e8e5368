"""The stand-in as a process of a test's own, and orders to it."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import Any

from tools.emqx.settings import as_options
from tools.ports import HOST, free_port
from tools.served import Served

ANSWER_S = 10.0


class Emqx(Served):
    """A stand-in that starts, stops, dies and comes back on the same port, its sessions forgotten.

    changes: settings other than EMQX's defaults, see settings.py.
    """

    def __init__(self, folder: Path, **changes: object) -> None:
        self._changes, self._control_port = changes, free_port()
        super().__init__(folder)

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "tools.emqx", "--port", str(self.port),
                "--control", str(self._control_port), *as_options(self._changes)]

    def kill(self) -> None:
        """SIGKILL."""
        self.child.kill()

    @property
    def running(self) -> bool:
        """Whether it is there now."""
        return self.child.running

    def order(self, do: str, **more: object) -> dict[str, Any]:
        """Give one order, see control.py; raises ValueError where it is refused."""
        with socket.create_connection((HOST, self._control_port), timeout=ANSWER_S) as sock:
            sock.sendall(json.dumps({"do": do, **more}).encode() + b"\n")
            answer = b""
            while not answer.endswith(b"\n"):
                piece = sock.recv(65_536)
                if not piece:
                    raise ConnectionError("no answer to an order")
                answer += piece
        found = json.loads(answer)
        assert isinstance(found, dict)
        if not found.pop("ok"):
            raise ValueError(found["why"])
        return found

    def set(self, **changes: object) -> None:
        """Change settings of the one that runs; a restart has those of the beginning."""
        self.order("set", **changes)

    def stats(self) -> dict[str, Any]:
        """Counts, and of each session what it holds."""
        return self.order("stats")
