"""What can go wrong with a board on a cable. Each is one line that says what to do."""

from __future__ import annotations


class LinkError(RuntimeError):
    """The board, or the way to it, failed. One line."""


class PortError(LinkError):
    """The port is not there or in use."""


class UnpluggedError(LinkError):
    """The port went away in the middle."""


class SilentError(LinkError):
    """Something is there that does not answer as MicroPython does."""


class FullError(LinkError):
    """The board's file system is full."""


class WornError(LinkError):
    """What was written reads back as something else, twice."""

    def __init__(self, port: str, path: str) -> None:
        super().__init__(f"{port}: {path} reads back wrong twice; its flash may be worn out")


class OnBoardError(LinkError):
    """Code on the board raised; `trace` is what it said."""

    def __init__(self, trace: str) -> None:
        self.trace = trace
        super().__init__((trace.strip().splitlines() or ["unknown error"])[-1])
