"""A real Mosquitto of our own: on a free loopback port, with its files in a folder of ours.

The system's Mosquitto is used where there is one; otherwise Debian's package, unpacked into the
project's cache. No service of the host is started, stopped or configured.

What an upstream forgets. Mosquitto answers first and saves later, so after SIGKILL it can have
forgotten what it acknowledged: with `autosave_interval 1` and `autosave_on_changes`, as here,
whatever it did in its last pass. On SIGTERM it saves all its sessions and messages before it
ends. So `stop` is the way to restart an upstream whose deliveries are counted, and `kill` shows
what becomes of clients whose broker forgets.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from tools import debian
from tools.cachedir import Say, silent
from tools.lifetime import Startable
from tools.ports import HOST, PortError, free_port, wait_for_port
from tools.procs import Child, ChildError

SYSTEM_PATH = "/usr/local/sbin:/usr/sbin:/sbin:/usr/local/bin:/usr/bin:/bin"
START_TRIES = 3
RUNNING = re.compile(rb"mosquitto version \S+ running")


class MosquittoMissingError(ChildError, FileNotFoundError):
    """There is no Mosquitto on this machine and none could be fetched."""


@lru_cache
def find_program(program: str = "mosquitto", say: Say = silent) -> list[str]:
    """Return the start of the command line of one of Mosquitto's programs.

    program: `mosquitto`, `mosquitto_pub` or `mosquitto_sub`. say: gets progress lines while
    Debian's package is fetched, where the machine has none of its own.
    """
    found = shutil.which(program, path=os.pathsep.join([os.environ.get("PATH", ""), SYSTEM_PATH]))
    if found:
        return [found]
    try:
        tree = debian.fetch(
            "mosquitto",
            ["mosquitto", "mosquitto-clients"],
            suite=debian.os_release().get("VERSION_CODENAME", "stable"),
            say=say,
        )
        return tree.program(program)
    except debian.FetchError as error:
        raise MosquittoMissingError(f"{program}: not on this machine, and {error}") from error


class Mosquitto(Startable):
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
        self._conf = folder / "mosquitto.conf"
        command = [*find_program(), "-c", str(self._conf)]
        self.child = Child(command, log=folder / "mosquitto.log")

    def _write_conf(self) -> None:
        lines = [
            f"listener {self.port} {HOST}",
            "allow_anonymous true",
            "set_tcp_nodelay true",
            "log_type error",
            "log_type warning",
            "log_type notice",
            "log_type information",  # says when it listens
            # the default keeps 1000 messages for an absent client and drops the rest in silence
            "max_queued_messages 0",
            # more than this at once in flight at QoS 2, and 2.0.11 answers no more after a
            # restart, loses or doubles; it allows 20 where nothing is said
            "max_inflight_messages 1000",
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
            log = self.child.log
            log_start = log.stat().st_size if log.exists() else 0
            self.child.start()
            try:
                self._wait_until_up(timeout_s, log_start)
                return
            except PortError:
                self.child.kill()
                raise
            except ChildError:
                if self._fixed_port or attempt == START_TRIES - 1:
                    raise
                self.port = free_port()  # somebody was quicker
        raise AssertionError("not reached")

    def _wait_until_up(self, timeout_s: float, log_start: int) -> None:
        # its own word counts: on a port that was taken meanwhile it is another that answers
        deadline = time.monotonic() + timeout_s
        while not RUNNING.search(self._log_since(log_start)):
            if not self.child.running:
                raise ChildError(f"mosquitto ended at its start: {self.child.tail(3)}")
            if time.monotonic() > deadline:
                raise PortError(f"mosquitto did not start within {timeout_s} s")
            time.sleep(0.01)
        wait_for_port(self.port, timeout_s, alive=lambda: self.child.running)
        self._fixed_port = True  # clients know it from now on

    def _log_since(self, start: int) -> bytes:
        with self.child.log.open("rb") as log:
            log.seek(start)
            return log.read()

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


def client_command(program: str, port: int, *args: str) -> list[str]:
    """Return the command line of mosquitto_pub or mosquitto_sub against a loopback port."""
    return [*find_program(program), "-h", HOST, "-p", str(port), *args]


def main() -> int:
    """Get Mosquitto's programs where they are missing, and print how they run."""

    def tell(line: str) -> None:
        print(f"setup: {line}", file=sys.stderr, flush=True)

    try:
        for program in ("mosquitto", "mosquitto_pub", "mosquitto_sub"):
            print(find_program(program, tell)[-1])
    except MosquittoMissingError as error:
        tell(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
