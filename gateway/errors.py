"""Tidegate's errors: one hierarchy, each also the builtin that fits."""

from __future__ import annotations


class TidegateError(Exception):
    """Base of everything Tidegate raises on purpose; its text is one line for a person."""


class ConfigError(TidegateError, ValueError):
    """A config that cannot be used: names file, key, value and what would be right."""

    def __init__(self, file: str, key: str, problem: str) -> None:
        super().__init__(f"{file}: {key}: {problem}" if key else f"{file}: {problem}")


class ProtocolError(TidegateError, ValueError):
    """What a peer sent breaks MQTT; the connection has to be closed.

    reason: a short, fixed word for a counter (`malformed`, `oversized`, …).
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason


class CredentialsError(TidegateError, ValueError):
    """The file of credentials cannot be used, or a name in it is not there or there already."""


class CertificateError(TidegateError, ValueError):
    """A certificate cannot be made."""


class ListenError(TidegateError, OSError):
    """The address that devices should connect to cannot be had."""


class UnreachableError(TidegateError, ConnectionError):
    """No connection to the broker, or to the proxy before it."""


class OutboxError(TidegateError, OSError):
    """The outbox on disk cannot be read or written."""
