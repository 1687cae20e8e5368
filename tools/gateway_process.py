"""The real gateway as a process of its own: started, killed and asked for its status."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gateway import control
from tools.lifetime import Startable
from tools.ports import HOST, PortError, free_port, wait_for_port
from tools.procs import Child, ChildError

COMMAND = [sys.executable, "-m", "gateway"]
FAULTY = [sys.executable, "-m", "tools.faulty_gateway", "--fault"]
PROJECT = Path(__file__).resolve().parent.parent


class Gateway(Startable):
    """`tidegate run` on a free loopback port, with its outbox in `folder`.

    upstream_port: of the broker on loopback. settings: TOML that follows the two tables
    `[listener]` and `[upstream]`, `[[route]]` for instance. fault: one of those that
    tools.faulty_gateway can plant. env: added to the environment. scheme: of the upstream's URL.
    module: what is run, `gateway` or one that stands for it.
    """

    def __init__(
        self,
        folder: Path,
        upstream_port: int,
        *,
        settings: str = "",
        name: str = "gateway",
        fault: str = "",
        env: Mapping[str, str] | None = None,
        scheme: str = "mqtt",
        module: str = "gateway",
    ) -> None:
        self.folder = folder
        self.port = free_port()
        self.name = name
        self.config = folder / "tidegate.toml"
        self._text = (
            f'id = "{name}"\n'
            f'[listener]\nlisten = "{HOST}:{self.port}"\n'
            f'[upstream]\nurl = "{scheme}://{HOST}:{upstream_port}"\n'
            f"{settings}"
        )
        program = [*FAULTY, fault] if fault else [sys.executable, "-m", module]
        argv = [*program, "run", "-c", str(self.config)]
        self.child = Child(argv, log=folder / "gateway.log", env=env, cwd=PROJECT)

    @property
    def status_topic(self) -> str:
        """Where the upstream learns whether the gateway is there."""
        return f"tidegate/gateway/{self.name}/status"

    @property
    def running(self) -> bool:
        """Whether the process is there now."""
        return self.child.running

    def start(self, timeout_s: float = 15.0) -> None:
        """Start it and wait until it listens, at most timeout_s [s]."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.config.write_text(self._text, encoding="utf-8")
        self.child.start()
        try:
            wait_for_port(self.port, timeout_s, alive=lambda: self.child.running)
        except PortError as error:
            self.child.stop()
            raise ChildError(f"the gateway did not start: {self.child.tail(2) or error}") from None

    def stop(self) -> int | None:
        """Stop it by SIGTERM; returns its exit code."""
        return self.child.stop()

    def kill(self) -> None:
        """Kill it by SIGKILL, as a crash would."""
        self.child.kill()

    def status(self) -> dict[str, Any] | None:
        """Return what `tidegate status --json` says; None where nobody answers."""
        try:
            return control.ask(self.folder / "outbox.db")
        except control.NotRunningError:
            return None
