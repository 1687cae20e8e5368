"""A few HTTP/1.0 answers on loopback: /metrics, /healthz, /readyz. Nothing can be changed here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

from gateway.errors import ListenError
from gateway.exposure import HttpConfig
from gateway.health import Health
from gateway.metrics import CONTENT_TYPE, render

log = logging.getLogger("tidegate.http")

TIMEOUT_S = 5.0
CONNECTIONS_MOST = 16


class HttpServer:
    """Answers one request a connection."""

    def __init__(self, config: HttpConfig, status: Callable[[], dict[str, Any]],
                 health: Health) -> None:
        self.port = 0
        self._config, self._status, self._health = config, status, health
        self._server: asyncio.Server | None = None
        self._open = 0

    async def open(self) -> None:
        """Listen, where the config says so. Raises ListenError."""
        if self._config.listen == "off":
            return
        try:
            self._server = await asyncio.start_server(self._answer, *self._config.address())
        except OSError as error:
            raise ListenError(f"cannot listen on {self._config.listen}: "
                              f"{error.strerror or error}") from error
        self.port = int(self._server.sockets[0].getsockname()[1])
        log.info("metrics and health address=%s", self._config.listen)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open += 1
        try:
            if self._open <= CONNECTIONS_MOST:
                async with asyncio.timeout(TIMEOUT_S):
                    words = (await reader.readuntil(b"\r\n")).split()
                    while (await reader.readuntil(b"\r\n")) != b"\r\n":
                        pass
                code, kind, body = self._page(words)
                writer.write(f"HTTP/1.0 {code}\r\nContent-Type: {kind}\r\n"
                             f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # whoever asked is gone, or asked badly
        finally:
            self._open -= 1
            writer.close()

    def _page(self, words: list[bytes]) -> tuple[str, str, bytes]:
        plain = "text/plain; charset=utf-8"
        if words[:1] not in ([b"GET"], [b"HEAD"]) or len(words) < 2:
            return "405 Method Not Allowed", plain, b"GET only\n"
        path = words[1].partition(b"?")[0]
        if path == b"/metrics":
            return "200 OK", CONTENT_TYPE, render(self._status(), self._health)
        if path in (b"/healthz", b"/readyz"):
            reasons = self._health.sick() if path == b"/healthz" else self._health.at_risk()
            text = "\n".join(reasons or ["ok"]) + "\n"
            return ("503 Service Unavailable" if reasons else "200 OK"), plain, text.encode()
        return "404 Not Found", plain, b"/metrics, /healthz, /readyz\n"

    def close(self) -> None:
        """Stop answering."""
        if self._server is not None:
            self._server.close()
