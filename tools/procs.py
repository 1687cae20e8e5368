"""Child processes that cannot outlive us.

Rules: every child gets a death signal from the kernel for the case that we are killed ourselves
(`setpriv --pdeathsig`, util-linux), and its own session, so that Ctrl-C in the terminal reaches
us alone and we stop the children in the order that we choose. The kernel sends the death signal
when the *thread* that started the child ends (prctl(2), PR_SET_PDEATHSIG), so children are
started from a thread that lives as long as they should.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from tools.lifetime import Startable

STOP_S = 10.0
"""How long a process may take to end after SIGTERM before it gets SIGKILL."""


class ChildError(Exception):
    """A child process could not be started or ended when it should not have."""


def die_with_us(argv: Sequence[str]) -> list[str]:
    """Return the command that runs argv and is killed by the kernel when we die."""
    setpriv = shutil.which("setpriv", path=f"{os.environ.get('PATH', '')}:/usr/bin:/bin")
    if setpriv is None:
        return list(argv)
    return [setpriv, "--pdeathsig", "KILL", "--", *argv]


class Child(Startable):
    """One child process with its output in a log file; stopped when the `with` block ends."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.argv = list(argv)
        self.log = log
        self._env = None if env is None else {**os.environ, **env}
        self._cwd = cwd
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the process; its output is appended to the log."""
        if self.running:
            raise ChildError(f"{self.argv[0]} is running already")
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                die_with_us(self.argv),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=self._env,
                cwd=self._cwd,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        """The process id; raises ChildError where nothing was started."""
        if self._process is None:
            raise ChildError(f"{self.argv[0]} was not started")
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process is there now."""
        return self._process is not None and self._process.poll() is None

    @property
    def returncode(self) -> int | None:
        """How the process ended; None while it runs or before its start."""
        return None if self._process is None else self._process.poll()

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the process, if it is still there."""
        if self._process is not None:
            self._process.send_signal(number)

    def wait(self, timeout_s: float) -> int:
        """Wait for the end of the process; raises ChildError after timeout_s [s]."""
        if self._process is None:
            raise ChildError(f"{self.argv[0]} was not started")
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise ChildError(f"{self.argv[0]} did not end within {timeout_s} s") from None

    def kill(self) -> None:
        """End the process at once (SIGKILL), as a crash would."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def stop(self, timeout_s: float = STOP_S) -> int | None:
        """End the process politely (SIGTERM), by force after timeout_s [s]."""
        if self._process is None:
            return None
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.kill()
        return self._process.returncode

    def tail(self, lines: int = 5) -> str:
        """Return the last lines of the log, for an error message."""
        if not self.log.exists():
            return ""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-lines:])
