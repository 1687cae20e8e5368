"""Orders to the stand-in while it runs: one JSON object a line, one line of answer each.

    {"do": "set", "messages_rate": 5}     change settings, see settings.py
    {"do": "kick", "client": "pi"}        DISCONNECT 0x98, the session is gone
    {"do": "forget", "client": ""}        as a restart: no DISCONNECT, sessions gone ("" for all)
    {"do": "cut"}                         close every connection without DISCONNECT, keep sessions
    {"do": "stats"}                       counts, and of each session what it holds
"""

from __future__ import annotations

import asyncio
import json
from typing import cast

from tools.emqx.broker import Broker

MAX_BYTES = 65_536


class Control(asyncio.Protocol):
    """One connection that gives orders."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._rest = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        assert self._transport is not None
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > MAX_BYTES:
            self._transport.close()
            return
        for line in lines:
            try:
                answer = {"ok": True, **self._do(json.loads(line))}
            except (ValueError, KeyError, TypeError) as error:
                answer = {"ok": False, "why": str(error)}
            self._transport.write(json.dumps(answer).encode() + b"\n")

    def _do(self, order: dict[str, object]) -> dict[str, object]:
        broker = self._broker
        match order.pop("do"):
            case "set":
                for name, value in order.items():
                    broker.settings.change(name, value)
                return {}
            case "kick":
                return {"was_there": broker.kick(str(order["client"]))}
            case "forget":
                broker.forget(str(order.get("client", "")))
                return {}
            case "cut":
                for link in list(broker.links):
                    link.hang_up(None)
                return {}
            case "stats":
                return {"counts": dict(broker.counts), "links": len(broker.links),
                        "sessions": {name: {"held": len(session.held),
                                            "flying": len(session.flying),
                                            "queue": len(session.queue),
                                            "dropped": session.dropped,
                                            "connected": session.connected}
                                     for name, session in broker.sessions.items()}}
        raise ValueError("no such order")
