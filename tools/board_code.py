"""Pieces of MicroPython that a board runs for us, and what their answers mean."""

from __future__ import annotations

import re
from dataclasses import dataclass

INFO = """
import sys
i = sys.implementation
try:
    import machine
    u = machine.unique_id().hex()
except Exception:
    u = ''
print((list(i.version[:3]), getattr(i, '_machine', ''), getattr(i, '_mpy', 0), sys.platform, u))
"""
HASHES = """
import hashlib
b = bytearray(512)
def h(p):
    s = hashlib.sha256()
    with open(p, 'rb') as f:
        while True:
            n = f.readinto(b)
            if not n:
                return s.digest().hex()
            s.update(memoryview(b)[:n])
for p in {paths!r}:
    try:
        print(p, h(p))
    except OSError:
        print(p, '-')
"""
TREE = """
import os
def w(d):
    for e in os.ilistdir(d or '/'):
        p = d + '/' + e[0]
        if e[1] == 0x4000:
            w(p)
        else:
            print(p)
try:
    w({folder!r})
except OSError:
    pass
"""
MKDIRS = """
import os
for d in {folders!r}:
    try:
        os.mkdir(d)
    except OSError as e:
        if e.args[0] != 17:
            raise
"""


@dataclass(frozen=True)
class Info:
    """What a board says of itself.

    version: MicroPython's; machine: board and chip in words; mpy: bytecode version and native
    architecture as sys.implementation gives them; unique_id: hex.
    """

    version: tuple[int, int, int]
    machine: str
    mpy: int
    platform: str
    unique_id: str

    @property
    def chip(self) -> str:
        """Give the chip as board files name it, "" where it is none of ours."""
        found = re.search(r"ESP32[- ]?([SCPH]\d)?", self.machine.rpartition(" with ")[2])
        if self.platform != "esp32" or not found:
            return ""
        return "esp32" + (found[1] or "").lower()
