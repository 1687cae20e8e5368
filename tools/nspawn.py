"""A small Debian that a real systemd boots, in a container: for tests of the installed service.

Needs root, debootstrap and systemd-nspawn. The container has this machine's network and a copy of
the root of its own, thrown away after it; only its own process is ever stopped.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from tools import cachedir, cleanroom, debian
from tools.lifetime import Startable
from tools.procs import die_with_us
from tools.waiting import wait_until

BASE = "systemd,systemd-sysv,dbus,make,python3,python3-venv,ca-certificates"
RUN_S = 120.0
SUITES = ("bookworm", "trixie")  # Raspberry Pi OS is made of the one or the other
PROGRAMS = ("debootstrap", "systemd-nspawn", "nsenter")


def why_not() -> str | None:
    """Why this machine cannot run a container; None where it can."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if os.geteuid() != 0:
        missing.append("root")
    return f"needs {', '.join(missing)}" if missing else None


def _make(suite: str, root: Path) -> None:
    done = subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={BASE}", suite, str(root),
         debian.machine_sources()[0].uri],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError("debootstrap failed: " + "; ".join(done.stdout.splitlines()[-3:]))


@contextmanager
def fresh_root(suite: str) -> Iterator[Path]:
    """A copy of the root of a Debian release, gone at the end."""
    base = cachedir.once(f"service-{suite}", partial(_make, suite))
    with tempfile.TemporaryDirectory(prefix="tidegate-root-") as folder:
        root = Path(folder) / "root"
        subprocess.run(["cp", "-a", "--reflink=auto", str(base), str(root)], check=True)
        cleanroom.machine_settings(root)
        yield root


def _command(root: Path, source: Path) -> list[str]:
    return ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", f"--directory={root}",
            f"--bind-ro={source}:/source",
            *(f"--bind-ro={path}" for path in cleanroom.host_paths(cleanroom.pip_settings()))]


def run_in(root: Path, source: Path, commands: str) -> subprocess.CompletedProcess[str]:
    """Run shell commands in a root that is not booted, with the project at /source."""
    settings = cleanroom.pip_settings()
    return subprocess.run(
        [*_command(root, source), "--pipe", "--chdir=/source",
         *(f"--setenv={key}={value}" for key, value in settings.items()),
         "/bin/bash", "-ec", commands],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        check=False)


class Booted(Startable):
    """The root with its systemd running and the project at /source; `run` enters it."""

    def __init__(self, root: Path, source: Path, log: Path) -> None:
        self._argv, self._log = _command(root, source), log
        self._process: subprocess.Popen[bytes] | None = None
        self._leader = 0

    def run(self, *argv: str, check: bool = True) -> str:
        """Run a command inside; returns what it printed."""
        done = subprocess.run(
            ["nsenter", "--target", str(self._leader), "--mount", "--uts", "--ipc", "--pid",
             "--root", "--wd", "--cgroup", *argv],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=RUN_S, check=False)
        if check and done.returncode:
            raise RuntimeError(f"{' '.join(argv)}: {done.returncode}: {done.stdout}")
        return done.stdout.strip()

    def make(self, target: str) -> str:
        """Run a target of the project's Makefile; returns what it printed."""
        settings = [f"{key}={value}" for key, value in cleanroom.pip_settings().items()]
        return self.run("env", *settings, "make", "-C", "/source", target, "PYTHON=python3")

    def show(self, unit: str, name: str) -> str:
        """One property of a unit."""
        return self.run("systemctl", "show", unit, "-P", name)

    def _child(self) -> int:
        assert self._process is not None
        task = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        # the container's first process is below the stub that holds its name spaces
        pids = task.read_text().split()
        return int(pids[-1]) if pids else 0

    def _up(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"the container ended: {self._log.read_text()[-500:]}")
        self._leader = self._child()
        if not self._leader:
            return False
        state = self.run("systemctl", "is-system-running", check=False).splitlines()[-1:]
        return state in (["running"], ["degraded"])

    def start(self) -> None:
        """Boot it and wait until its systemd is up."""
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                die_with_us([*self._argv, "--boot", "--console=pipe"]),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            wait_until(self._up, 60.0, "systemd is up")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Shut it down, by force where it does not."""
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGTERM)  # nspawn asks its systemd to shut down
        try:
            self._process.wait(20.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
