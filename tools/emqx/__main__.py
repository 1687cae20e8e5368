"""Run the stand-in for EMQX as a process.

    python -m tools.emqx --port 1883 --control 1884 --max-awaiting-rel 100

A SIGTERM ends it as EMQX stops: the connections go without DISCONNECT, and with the process go its
sessions.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys

import uvloop

from tools.emqx.broker import Broker
from tools.emqx.control import Control
from tools.emqx.link import Link
from tools.emqx.settings import Settings, add_arguments, from_arguments
from tools.ports import HOST


async def serve(settings: Settings, port: int, control: int) -> None:
    """Serve until SIGTERM or SIGINT."""
    loop = asyncio.get_running_loop()
    broker = Broker(settings)
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    if control:
        await loop.create_server(lambda: Control(broker), HOST, control)
    server = await loop.create_server(lambda: Link(broker), HOST, port, backlog=1024)
    print(f"listening on {HOST}:{port}", flush=True)
    await ended.wait()
    server.close()
    for link in list(broker.links):
        link.hang_up(None)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(prog="python -m tools.emqx", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, default=1883)
    parser.add_argument("--control", type=int, default=0, help="port for orders, see control.py")
    add_arguments(parser)
    args = parser.parse_args()
    try:
        settings = from_arguments(args)
    except ValueError as error:
        parser.error(str(error))
    try:
        uvloop.run(serve(settings, args.port, args.control))
    except OSError as error:
        print(f"tools.emqx: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
