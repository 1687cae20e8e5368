"""The wire on CPython, over a TLS that takes its time with what it is given."""

from __future__ import annotations

import importlib
from typing import Any

import pytest


class Tls:
    """As mbedtls_ssl_write: what it could not send it has kept, and says so of the next call's."""

    def __init__(self, busy: int) -> None:
        self.sent = b""
        self._kept = b""
        self._busy = busy

    def write(self, data: Any) -> int | None:
        self._kept = self._kept or bytes(data)
        if self._busy:
            self._busy -= 1
            return None
        self.sent += self._kept
        self._kept = b""
        return len(data)


@pytest.mark.parametrize("busy", [0, 1, 3])
def test_what_is_written_behind_an_unfinished_tls_record_is_sent(busy: int) -> None:
    wire = importlib.import_module("node.wire").Wire()
    tls = wire._sock = Tls(busy)
    wire.write(b"a batch")
    wire.flush()
    wire.write(b"goodbye")
    for _ in range(busy + 2):
        wire.flush()
    assert tls.sent == b"a batchgoodbye"
    assert wire.idle()
