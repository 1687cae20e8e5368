"""TLS towards the devices: the handshake, and the name in a client's certificate.

Sockets are accepted here and handed to the loop one by one, so that the number of handshakes is
limited, and one that fails (an expired certificate, say) is told with its reason and counted;
`create_server(ssl=…)` tells nobody.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any

from gateway.errors import ListenError

ACCEPT_RETRY_S = 0.5


def server_context(cert_file: str, key_file: str, client_ca_file: str | None) -> ssl.SSLContext:
    """TLS 1.2 or later; with client_ca_file a client has to show a certificate signed by it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load(context, cert_file, key_file, client_ca_file)
    return context


def load(context: ssl.SSLContext, cert_file: str, key_file: str,
         client_ca_file: str | None) -> None:
    """Read the files (again); holds for handshakes from now on. Raises ListenError."""
    try:
        context.load_cert_chain(cert_file, key_file)
        if client_ca_file is not None:
            context.load_verify_locations(client_ca_file)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        raise ListenError(f"TLS with {cert_file}, {key_file}, {client_ca_file or 'no CA'}: "
                          f"{error}") from error


def common_name(transport: asyncio.BaseTransport) -> str | None:
    """The common name in the peer's certificate; None where it showed none."""
    certificate: dict[str, Any] = transport.get_extra_info("peercert") or {}
    for part in certificate.get("subject", ()):
        for key, value in part:
            if key == "commonName":
                return str(value)
    return None


class TlsServer:
    """Accepts, shakes hands, and makes a connection of each that succeeded.

    factory: makes its protocol. room: whether one more is welcome. failed: called with peer and
    reason of one that did not succeed.
    """

    def __init__(self, context: ssl.SSLContext, timeout_s: float,
                 factory: Callable[[], asyncio.Protocol], room: Callable[[int], bool],
                 failed: Callable[[str, str], None]) -> None:
        self._context, self._timeout_s = context, timeout_s
        self._factory, self._room, self._failed = factory, room, failed
        self._sock: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._shaking: set[asyncio.Task[None]] = set()

    async def open(self, host: str, port: int) -> int:
        """Listen; return the port. Raises OSError."""
        loop = asyncio.get_running_loop()
        family, *_, address = (await loop.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE))[0]
        self._sock = socket.create_server(address[:2], family=family, backlog=1024)
        self._sock.setblocking(False)
        self._accepting = loop.create_task(self._accept(self._sock))
        return int(self._sock.getsockname()[1])

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                sock, address = await loop.sock_accept(listening)
            except OSError as error:  # out of descriptors, or gone before we looked
                self._failed("-", str(error))
                await asyncio.sleep(ACCEPT_RETRY_S)
                continue
            peer = f"{address[0]}:{address[1]}"
            if not self._room(len(self._shaking)):
                sock.close()
                continue
            task = loop.create_task(self._shake(sock, peer))
            self._shaking.add(task)
            task.add_done_callback(self._shaking.discard)

    async def _shake(self, sock: socket.socket, peer: str) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                self._factory, sock, ssl=self._context, ssl_handshake_timeout=self._timeout_s)
        except (OSError, ValueError) as error:
            sock.close()
            self._failed(peer, getattr(error, "verify_message", "")
                         or getattr(error, "reason", "") or str(error) or type(error).__name__)

    def close(self) -> None:
        """Accept nobody new; give up what is half done."""
        for task in (self._accepting, *self._shaking):
            if task is not None:
                task.cancel()
        if self._sock is not None:
            self._sock.close()
