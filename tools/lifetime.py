"""What lives for as long as a `with` block: two bases, for what starts and for what only ends."""

from __future__ import annotations

from typing import Self


class Startable:
    """Started where its `with` block begins, stopped where it ends."""

    def start(self) -> object:
        """Begin, and return when it can be used."""
        raise NotImplementedError

    def stop(self) -> object:
        """End for good; leave no process and no thread."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stop()


class Closeable:
    """There from the moment it is made, closed where its `with` block ends."""

    def close(self) -> None:
        """Let go of everything."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()
