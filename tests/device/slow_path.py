"""The virtual board's network that takes time, for scripts on the bare interpreter."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from real_port import MicroPython

from tools.virtual import rootfs
from tools.virtual.links import Links
from tools.virtual.network import Network
from tools.virtual.reactor import Reactor

SLOW = Network(latency_ms=2, jitter_ms=1)  # for clocks that run 20 times faster
HOST = """def ask(what, host=None, port=0):
    return ({0.piece_bytes}, {0.rest_ms}) if what == "network" else (host, port)
"""


def slowed(micropython: MicroPython, folder: Path, network: Network = SLOW) -> MicroPython:
    """Give the interpreter with the virtual board's sockets, on which nothing is done at once."""
    place = folder / f"sockets-{network.piece_bytes}"
    place.mkdir(exist_ok=True)
    for name in ("socket.py", "_slow.py"):
        shutil.copy(rootfs.ROM / name, place)
    (place / "_host.py").write_text(HOST.format(network))
    return MicroPython([place, *micropython.paths], "8m")


@contextmanager
def path_to(port: int, network: Network = SLOW) -> Iterator[int]:
    """Give the port that leads to that of a server, over the network."""
    reactor = Reactor("path")
    links = Links(reactor, network, lambda: True, lambda: True)
    try:
        yield reactor.do(lambda: links.route("127.0.0.1", port))
    finally:
        reactor.do(links.close)
        reactor.stop()
