"""MicroPython's ROM file system: an image that its interpreter runs from in place.

Format: records of kind, length and payload, the first two as big-endian base-128 numbers. A file
is name and data; a folder is name and records; the image is one record of a kind of its own.
"""

from __future__ import annotations

from collections.abc import Mapping

MAGIC = b"\xd2\xcd\x31"
DATA, FOLDER, FILE = 2, 4, 5


def number(value: int) -> bytes:
    """Give a number as 7-bit groups, all but the last marked."""
    groups = [value & 0x7F]
    while value := value >> 7:
        groups.append(value & 0x7F | 0x80)
    return bytes(reversed(groups))


def record(kind: int, payload: bytes) -> bytes:
    """Give one record."""
    return number(kind) + number(len(payload)) + payload


def _name(name: str) -> bytes:
    return number(len(name.encode())) + name.encode()


def _folder(files: Mapping[str, bytes]) -> bytes:
    here = b""
    below: dict[str, dict[str, bytes]] = {}
    for path, content in sorted(files.items()):
        head, _, rest = path.partition("/")
        if rest:
            below.setdefault(head, {})[rest] = content
        else:
            here += record(FILE, _name(head) + record(DATA, content))
    for head, inside in below.items():
        here += record(FOLDER, _name(head) + _folder(inside))
    return here


def image(files: Mapping[str, bytes]) -> bytes:
    """Give the image that holds the files: path -> contents."""
    content = _folder(files)
    return MAGIC + number(len(content)) + content
