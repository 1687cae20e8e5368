"""Who is this gateway? Its id stands beside the outbox, as `<outbox>-id`, and goes where it goes.

The id makes the client identifier at the upstream, and with it the session that the outbox's
packet identifiers belong to. Two gateways of one id take over each other's connection again and
again, and their messages under one packet identifier are one for the upstream: what both have
acknowledged is lost. A host's name is no such id: machines made of one image have the same.

- The config's `id` holds, where it has one.
- Else the one that is noted here; an outbox of before there was a note was the host name's.
- A new outbox gets one of its own, drawn at random behind the host's name.

The machine is noted too: an outbox that wakes up on another one was moved, or copied.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
import secrets
import socket
from pathlib import Path

from gateway.errors import OutboxError

log = logging.getLogger("tidegate.identity")

ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
MACHINE_ID = Path("/etc/machine-id")
NOTE = "-id"  # behind the outbox's name


def of(outbox: Path) -> str:
    """The id of the gateway with this outbox, where its config has none."""
    host = re.sub(r"[^A-Za-z0-9_-]", "-", socket.gethostname())
    name, _ = _noted(outbox)
    if name:
        return name
    try:
        is_new = not outbox.exists()
    except OSError:
        is_new = False
    return f"{host[:40]}-{secrets.token_hex(4)}" if is_new else host


def begin(outbox: Path, name: str) -> None:
    """Note the id of an outbox that is about to be made; a crash in between must not leave one
    without. Raises OutboxError."""
    try:
        if not outbox.exists() and not _path(outbox).exists():
            outbox.parent.mkdir(parents=True, exist_ok=True)
            _write(outbox, name)
    except OSError as error:
        raise OutboxError(f"{_path(outbox)}: {error.strerror}") from error


def keep(outbox: Path, name: str) -> bool:
    """Note the id and the machine, once the outbox is ours. Returns whether it was last used on
    another machine."""
    noted, machine = _noted(outbox)
    here = _machine()
    moved = bool(machine and here) and machine != here
    if moved:
        log.warning("this outbox was last used on another machine; if that still runs with it, "
                    "both use the client identifier of id=%s and lose messages: see 'Move to "
                    "another Pi' in docs/operations.md", name)
    if noted and noted != name:
        log.warning("the id has changed, the upstream keeps the session and the status of the old "
                    "one was=%s is=%s", noted, name)
    if (noted, machine) != (name, here or machine):
        try:
            _write(outbox, name)
        except OSError as error:
            log.warning("cannot note the id beside the outbox, put it into the config id=%s "
                        "reason=%s", name, error)
    return moved


def _path(outbox: Path) -> Path:
    return outbox.with_name(outbox.name + NOTE)


def _noted(outbox: Path) -> tuple[str, str]:
    """Id and machine; empty where they are not known."""
    try:
        lines = _path(outbox).read_text().splitlines()
    except (OSError, UnicodeDecodeError):
        return "", ""
    name, machine, *_ = [*lines, "", ""]
    return (name if ID.fullmatch(name) else ""), machine


def _write(outbox: Path, name: str) -> None:
    """All of it or nothing, on disk."""
    path = _path(outbox)
    made = path.with_name(path.name + ".new")
    with made.open("w") as file:
        file.write(f"{name}\n{_machine() or _noted(outbox)[1]}\n")
        file.flush()
        os.fsync(file.fileno())
    made.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _machine() -> str:
    """Tells this machine from others, "" where it has no name. machine-id(5) asks not to show it
    as it is."""
    try:
        found = MACHINE_ID.read_bytes().strip()
    except OSError:
        return ""
    return hashlib.sha256(b"tidegate:" + found).hexdigest()[:16] if found else ""
