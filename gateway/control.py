"""How the running gateway is asked how it is: a Unix socket beside the outbox.

One connection: one line that asks (`status`, `devices`, `outbox`, `rows KEY`), one JSON object,
closed. Whoever may read the folder may ask; nothing can be changed through it.
"""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from gateway.errors import TidegateError

log = logging.getLogger("tidegate.control")

TIMEOUT_S = 3.0
MODE = 0o660  # to connect is to write; the service's umask leaves its group without
OUTBOX_S = 120.0  # to count a full outbox on a slow card
_PATH_MOST = 100  # sun_path holds 108 bytes


class NotRunningError(TidegateError, ConnectionError):
    """Nobody answers at the control socket."""


def path_for(outbox: Path) -> Path:
    """The control socket of the gateway with this outbox."""
    return outbox.with_name(f"{outbox.name}.ctl")


class Control:
    """The server's side."""

    def __init__(self, path: Path, answer: Callable[[str], Awaitable[dict[str, Any]]]) -> None:
        self._path, self._tell = path, answer
        self._server: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen; where that is not possible, say so and go on without."""
        if len(str(self._path)) > _PATH_MOST:
            log.warning("no control socket reason='path too long' path=%s", self._path)
            return
        self._path.unlink(missing_ok=True)
        try:
            self._server = await asyncio.start_unix_server(self._answer, self._path)
            self._path.chmod(MODE)
        except OSError as error:
            log.warning("no control socket reason=%r", str(error))

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                asked = (await reader.readline()).decode(errors="replace").strip()
            writer.write(json.dumps(await self._tell(asked)).encode())
        except (OSError, TimeoutError, ValueError):
            pass  # whoever asked is gone, or asked badly
        finally:
            writer.close()

    def close(self) -> None:
        """Stop answering."""
        if self._server is not None:
            self._server.close()
            self._path.unlink(missing_ok=True)


def ask(outbox: Path, what: str = "status") -> dict[str, Any]:
    """An answer of the gateway with this outbox. Raises NotRunningError."""
    path = path_for(outbox)
    parts: list[bytes] = []
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(OUTBOX_S if what == "outbox" else TIMEOUT_S)
            sock.connect(str(path))
            sock.sendall(f"{what}\n".encode())
            while part := sock.recv(65_536):
                parts.append(part)
        answer = json.loads(b"".join(parts))
    except PermissionError as error:
        raise NotRunningError(f"{path}: not yours to ask; use sudo, or join the group that owns "
                              "it and log in anew") from error
    except (OSError, ValueError) as error:
        raise NotRunningError(f"no gateway answers at {path} ({error}); is it running, "
                              "and is this its config?") from error
    assert isinstance(answer, dict)
    return answer
