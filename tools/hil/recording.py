"""The recording format: JSON Lines, a header and then events; docs/recording.md describes it.

Read and written as a stream: a recording may be larger than the memory.
"""

from __future__ import annotations

import base64
import binascii
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import msgspec

VERSION = 1
KINDS = ("connect", "publish", "disconnect", "cut")


class RecordingError(Exception):
    """A recording cannot be read. One line that names file and line."""


class Header(msgspec.Struct, kw_only=True):
    """The first line. began: UTC, ISO 8601. source: what was recorded. running: what ran then."""

    tidegate_recording: int = VERSION
    began: str = ""
    source: str = ""
    running: dict[str, Any] = {}


class Will(msgspec.Struct, kw_only=True, omit_defaults=True):
    """The will of a connection; the payload is in `text`, or in `b64` where it is not UTF-8."""

    topic: str
    text: str | None = None
    b64: str | None = None
    qos: int = 0
    retain: bool = False

    @property
    def payload(self) -> bytes:
        """The payload as bytes."""
        return _payload(self.text, self.b64)


class Event(msgspec.Struct, kw_only=True, omit_defaults=True):
    """One event.

    t: monotonic offset from the recording's begin [ns]. e: one of KINDS. c: the client
    identifier, "" where the recorder could not know it. side: where a recorder stood on both
    sides of a gateway, `device` or `upstream`.
    """

    t: int
    e: str
    c: str = ""
    side: str = ""
    topic: str = ""
    text: str | None = None
    b64: str | None = None
    qos: int = 0
    retain: bool = False
    dup: bool = False
    clean: bool = True
    keepalive_s: int = 0
    will: Will | None = None

    @property
    def payload(self) -> bytes:
        """The payload as bytes."""
        return _payload(self.text, self.b64)

    def problem(self) -> str | None:
        """Tell what is wrong with the event; None where nothing is."""
        if self.e not in KINDS:
            return f"e = {self.e!r}: one of {', '.join(KINDS)} is needed"
        if self.t < 0:
            return f"t = {self.t}: at least 0 is needed"
        if self.e == "publish" and (not self.topic or "+" in self.topic or "#" in self.topic):
            return f"topic = {self.topic!r}: a topic without wildcards is needed"
        if self.qos not in (0, 1, 2) or (self.will is not None and self.will.qos not in (0, 1, 2)):
            return f"qos = {self.qos}: 0, 1 or 2 is needed"
        for part in (self, self.will):
            try:
                if part is not None:
                    _ = part.payload
            except binascii.Error:
                return "b64: not base64"
        return None


def _payload(text: str | None, b64: str | None) -> bytes:
    if b64 is not None:
        return base64.b64decode(b64, validate=True)
    return (text or "").encode()


def packed(payload: bytes) -> tuple[str | None, str | None]:
    """Return a payload as `text` and `b64`: text where it is UTF-8, the other is None."""
    try:
        return payload.decode(), None
    except UnicodeDecodeError:
        return None, base64.b64encode(payload).decode()


def publish_event(t_ns: int, client: str, topic: str, payload: bytes, *, qos: int = 0,
                  retain: bool = False, dup: bool = False, side: str = "") -> Event:
    """Make the event of a PUBLISH."""
    text, b64 = packed(payload)
    return Event(t=t_ns, e="publish", c=client, side=side, topic=topic, qos=qos, retain=retain,
                 dup=dup, text=text, b64=b64)


@dataclass
class Writer:
    """Writes events to an open file, header first; `count` is how many."""

    file: IO[bytes]
    header: Header
    count: int = 0

    def __post_init__(self) -> None:
        self.file.write(msgspec.json.encode(self.header) + b"\n")

    def write(self, event: Event) -> None:
        """Write one event."""
        self.file.write(msgspec.json.encode(event) + b"\n")
        self.count += 1


def new_header(source: str, *, when: datetime | None = None, **running: Any) -> Header:
    """Make the header of a recording that began then, or begins now."""
    at = (when or datetime.now(UTC)).astimezone(UTC)
    began = at.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    python = f"CPython {sys.version_info.major}.{sys.version_info.minor}"
    return Header(began=began, source=source, running={"python": python, **running})


@contextmanager
def create(path: Path, header: Header) -> Iterator[Writer]:
    """Write a recording to a file, "-" for standard output."""
    if str(path) == "-":
        yield Writer(sys.stdout.buffer, header)
        sys.stdout.buffer.flush()
        return
    with path.open("wb") as file:
        yield Writer(file, header)


def read_header(path: Path) -> Header:
    """Read the first line. Raises RecordingError."""
    try:
        with path.open("rb") as file:
            line = file.readline()
    except OSError as error:
        raise RecordingError(f"{path}: {error.strerror}") from error
    try:
        header = msgspec.json.decode(line, type=Header)
        if "tidegate_recording" not in json.loads(line):
            raise ValueError("no key tidegate_recording")
    except ValueError as error:  # msgspec's errors are ValueErrors
        raise RecordingError(f"{path}: line 1 is not the header of a recording ({error}); "
                             "`tidegate hil record` imports other logs") from error
    if header.tidegate_recording != VERSION:
        raise RecordingError(f"{path}: version {header.tidegate_recording}; "
                             f"this reader knows version {VERSION}")
    return header


def read(path: Path) -> Iterator[Event]:
    """Read the events, one at a time, in order. Raises RecordingError at the first bad line."""
    read_header(path)
    decoder = msgspec.json.Decoder(Event)
    last_ns = 0
    with path.open("rb") as file:
        file.readline()
        for number, line in enumerate(file, 2):
            if not line.strip():
                continue
            try:
                event = decoder.decode(line)
            except ValueError as error:
                raise RecordingError(f"{path}: line {number}: {error}") from error
            problem = event.problem()
            if event.t < last_ns:
                problem = f"t = {event.t}: earlier than the line before"
            if problem:
                raise RecordingError(f"{path}: line {number}: {problem}")
            last_ns = event.t
            yield event
