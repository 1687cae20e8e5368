"""What a virtual board says on its console, as lines that can be waited for."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable

LineListener = Callable[[str], None]


class NotSaidError(AssertionError, TimeoutError):
    """The board did not say what was waited for."""

    def __init__(self, pattern: str, timeout_s: float, last: list[str]) -> None:
        self.pattern, self.timeout_s = pattern, timeout_s
        tail = "\n  ".join(last) or "(nothing)"
        super().__init__(f"no line {pattern!r} within {timeout_s} s; last lines:\n  {tail}")


class Console:
    """The lines so far; fed by the board's thread, read from any."""

    def __init__(self, on_line: LineListener | None = None) -> None:
        self.lines: list[str] = []
        self._on_line = on_line
        self._changed = threading.Condition()
        self._partial = b""

    def feed(self, data: bytes) -> None:
        """Take bytes from the board."""
        *whole, self._partial = (self._partial + data).split(b"\n")
        if not whole:
            return
        lines = [line.rstrip(b"\r").decode(errors="replace") for line in whole]
        with self._changed:
            self.lines += lines
            self._changed.notify_all()
        if self._on_line:
            for line in lines:
                self._on_line(line)

    def note(self, text: str) -> None:
        """Add a line of the machine's own, such as a power cut."""
        self.fresh_line()
        self.feed(f"[{text}]\n".encode())

    def fresh_line(self) -> None:
        """End a line that was begun: the board starts anew."""
        if self._partial:
            self.feed(b"\n")

    def mark(self) -> int:
        """Give the place from which a later `wait` may look."""
        with self._changed:
            return len(self.lines)

    def wait(self, pattern: str, timeout_s: float = 10.0, after: int = 0) -> re.Match[str]:
        """Wait for a line that holds the regular expression; looks at all lines since `after`.

        Raises NotSaidError after `timeout_s` [s].
        """
        seek = re.compile(pattern)
        deadline = time.monotonic() + timeout_s
        at = after
        with self._changed:
            while True:
                for line in self.lines[at:]:
                    found = seek.search(line)
                    if found:
                        return found
                at = len(self.lines)
                left = deadline - time.monotonic()
                if left <= 0:
                    raise NotSaidError(pattern, timeout_s, self.lines[-12:])
                self._changed.wait(left)
