"""A real Mosquitto of our own: on a free loopback port, with its files in a folder of ours.

The system's Mosquitto is used where there is one; otherwise the copy that `make setup` unpacked
into the project's cache. No service of the host is started, stopped or configured.

What an upstream forgets. Mosquitto 2.0 and 2.1 answer first and save later, so after SIGKILL a
broker can have forgotten what it acknowledged, also with `autosave_interval 1` and
`autosave_on_changes`. After SIGTERM it saves all of its sessions and messages before it ends.
So `stop` is the way to restart an upstream whose deliveries are to be counted, and `kill` shows
what a broker does to its clients when it forgets.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from tools.ports import HOST, PortError, free_port, wait_for_port
from tools.procs import Child, ChildError

CACHE = Path(__file__).resolve().parent.parent / ".cache"
UNPACKED = CACHE / "mosquitto"
SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
START_TRIES = 3


class MosquittoMissingError(ChildError, FileNotFoundError):
    """There is no Mosquitto on this machine and none in the project's cache."""

    def __init__(self, program: str) -> None:
        super().__init__(f"{program}: not found; `make setup` gets it")


def find_program(program: str = "mosquitto") -> tuple[list[str], dict[str, str]]:
    """Return how to run one of Mosquitto's programs: its argv and what to add to the environment.

    `program` is `mosquitto`, `mosquitto_pub` or `mosquitto_sub`.
    """
    path = os.pathsep.join([os.environ.get("PATH", ""), SYSTEM_PATH])
    found = shutil.which(program, path=path)
    if found:
        return [found], {}
    for folder in ("usr/sbin", "usr/bin"):
        unpacked = UNPACKED / folder / program
        if unpacked.exists():
            triplet = f"{platform.machine()}-linux-gnu".replace("armv7l", "arm")
            libraries = [
                str(folder)
                for pattern in (f"usr/lib/{triplet}*", f"lib/{triplet}*", "usr/lib", "lib")
                for folder in sorted(UNPACKED.glob(pattern))
            ]
            return [str(unpacked)], {"LD_LIBRARY_PATH": os.pathsep.join(libraries)}
    raise MosquittoMissingError(program)


class Mosquitto:
    """A Mosquitto that starts, stops, dies and comes back on the same port with the same files.

    extra: further lines of mosquitto.conf. persistence: whether it keeps its sessions and
    messages in `folder` over a restart.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        persistence: bool = True,
        extra: Sequence[str] = (),
    ) -> None:
        self.folder = folder
        self.port = port or free_port()
        self._fixed_port = port is not None
        self._persistence = persistence
        self._extra = list(extra)
        argv, env = find_program()
        self._conf = folder / "mosquitto.conf"
        self.child = Child([*argv, "-c", str(self._conf)], log=folder / "mosquitto.log", env=env)

    def _write_conf(self) -> None:
        lines = [
            f"listener {self.port} {HOST}",
            "allow_anonymous true",
            "set_tcp_nodelay true",
            "log_type error",
            "log_type warning",
            "log_type notice",
            # the default keeps 1000 messages for an absent client and drops the rest in silence
            "max_queued_messages 0",
        ]
        if os.geteuid() == 0:
            lines.append("user root")  # the unpacked copy has no user of its own to change to
        if self._persistence:
            lines += [
                "persistence true",
                f"persistence_location {self.folder}/",
                "autosave_interval 1",
                "autosave_on_changes true",
            ]
        self._conf.write_text("\n".join([*lines, *self._extra]) + "\n", encoding="utf-8")

    def start(self, timeout_s: float = 10.0) -> None:
        """Start the broker and wait until it answers, at most timeout_s [s]."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for attempt in range(START_TRIES):
            self._write_conf()
            self.child.start()
            try:
                self._wait_until_up(timeout_s)
                return
            except PortError:
                self.child.kill()
                raise
            except ChildError:
                if self._fixed_port or attempt == START_TRIES - 1:
                    raise
                self.port = free_port()  # somebody was quicker
        raise AssertionError("not reached")

    def _wait_until_up(self, timeout_s: float) -> None:
        try:
            wait_for_port(self.port, timeout_s, alive=lambda: self.child.running)
        except PortError:
            if self.child.running:
                raise
            raise ChildError(f"mosquitto ended at its start: {self.child.tail(3)}") from None
        if not self.child.running:  # it was another process that answered
            raise ChildError(f"mosquitto ended at its start: {self.child.tail(3)}")
        self._fixed_port = True  # clients know it from now on

    def stop(self) -> None:
        """Stop the broker by SIGTERM: it saves its sessions and messages before it ends."""
        self.child.stop()

    def kill(self) -> None:
        """Kill the broker by SIGKILL: what it has not saved is gone."""
        self.child.kill()

    @property
    def running(self) -> bool:
        """Whether the broker is there now."""
        return self.child.running

    def __enter__(self) -> Mosquitto:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def client_command(program: str, port: int, *args: str) -> tuple[list[str], Mapping[str, str]]:
    """Return argv and environment of mosquitto_pub or mosquitto_sub against a loopback port."""
    argv, env = find_program(program)
    return [*argv, "-h", HOST, "-p", str(port), *args], env
