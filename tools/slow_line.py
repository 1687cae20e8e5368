"""Two network namespaces with a slow, lossy line between them. Linux, root and iproute2 only.

The rate is held by tbf at both ends, whose queues are as deep as asked for: a deep one is what
makes a real line answer seconds late. Packets are dropped by nftables as they come in (netem is
not in every kernel); its program is the machine's own, or Debian's package unpacked in the cache.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from tools import debian
from tools.lifetime import Closeable

T = TypeVar("T")
NEAR, FAR = "192.0.2.1", "192.0.2.2"
CLONE_NEWNET = 0x40000000
BURST_BYTES = 1600


class LineError(Exception):
    """This machine cannot have such a line."""


class SlowLine(Closeable):
    """near and far: names of the namespaces, in which NEAR and FAR are the addresses.

    kbit_s: in each direction. queue_s: how long the line's queue may be [s]. loss_percent: of
    packets, in each direction.
    """

    def __init__(self, kbit_s: int, *, queue_s: float = 1.0, loss_percent: int = 0) -> None:
        if os.geteuid() or shutil.which("ip") is None or shutil.which("tc") is None:
            raise LineError("needs root and iproute2 for network namespaces")
        self.near, self.far = f"tidegate-n{os.getpid()}", f"tidegate-f{os.getpid()}"
        self._made: list[str] = []
        try:
            self._make(kbit_s, queue_s, loss_percent)
        except subprocess.CalledProcessError as error:
            self.close()
            raise LineError(f"{error.cmd}: {error.stderr!r}") from error

    def _make(self, kbit_s: int, queue_s: float, loss_percent: int) -> None:
        for name in (self.near, self.far):
            _run("ip", "netns", "add", name)
            self._made.append(name)
        _run("ip", "link", "add", "line0", "netns", self.near, "type", "veth", "peer", "name",
             "line0", "netns", self.far)
        for name, address in ((self.near, NEAR), (self.far, FAR)):
            _run("ip", "-n", name, "addr", "add", f"{address}/30", "dev", "line0")
            for link in ("lo", "line0"):
                _run("ip", "-n", name, "link", "set", link, "up")
            _run("ip", "netns", "exec", name, "tc", "qdisc", "add", "dev", "line0", "root", "tbf",
                 "rate", f"{kbit_s}kbit", "burst", str(BURST_BYTES),
                 "latency", f"{queue_s * 1000:.0f}ms")
            if loss_percent:
                _run("ip", "netns", "exec", name, *_nft(), "add table inet line; "
                     "add chain inet line in { type filter hook input priority 0; }; "
                     "add rule inet line in iifname line0 "
                     f"numgen random mod 100 < {loss_percent} drop")

    def command(self, name: str, argv: list[str]) -> list[str]:
        """The command that runs argv in a namespace."""
        return ["ip", "netns", "exec", name, *argv]

    def within(self, name: str, what: Callable[[], T]) -> T:
        """Call `what` in a namespace; a socket that it makes stays there."""
        found: list[T] = []

        def call() -> None:
            enter(name)
            found.append(what())

        thread = threading.Thread(target=call)
        thread.start()
        thread.join()
        return found[0]

    def connect(self, name: str, address: str, port: int) -> socket.socket:
        """A connection from within a namespace."""
        return self.within(name, lambda: socket.create_connection((address, port), 30.0))

    def cut(self) -> None:
        """Lose every packet from now on, in both directions, without a word to anybody."""
        for name, other in ((self.near, FAR), (self.far, NEAR)):
            _run("ip", "-n", name, "route", "add", "blackhole", f"{other}/32")

    def close(self) -> None:
        """Take all of it away."""
        for name in self._made:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)
        self._made.clear()


def enter(name: str) -> None:
    """Move this thread into a namespace, for good."""
    with Path(f"/var/run/netns/{name}").open() as space:
        if ctypes.CDLL(None, use_errno=True).setns(space.fileno(), CLONE_NEWNET):
            raise LineError(f"setns: {os.strerror(ctypes.get_errno())}")


def _run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


def _nft() -> list[str]:
    found = shutil.which("nft")
    if found:
        return [found]
    try:
        return debian.fetch("nftables", ["nftables"], suite=debian.os_release().get(
            "VERSION_CODENAME", "stable")).program("nft")
    except debian.FetchError as error:
        raise LineError(f"nft: not on this machine, and {error}") from error
