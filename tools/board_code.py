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
def h(p, n):
    with open(p, 'rb') as f:
        if f.seek(0, 2) != n:
            return '-'
        f.seek(0)
        s = hashlib.sha256()
        while True:
            n = f.readinto(b)
            if not n:
                return s.digest().hex()
            s.update(memoryview(b)[:n])
for p, n in {sizes!r}:
    try:
        print(p, h(p, n))
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
    print(d)
"""
REMOVE = """
import os
for p in {paths!r}:
    try:
        os.remove(p)
        print(p)
    except OSError as e:
        if e.args[0] != 2:
            raise
"""
# An empty folder goes too: to an import it would stand before a file of its name.
PRUNE = """
import os
def w(d):
    n = 0
    for e in os.ilistdir(d):
        n += e[1] != 0x4000 or w(d + '/' + e[0])
    if not n:
        os.rmdir(d)
        print(d)
    return n
try:
    w({folder!r})
except OSError as e:
    if e.args[0] != 2:
        raise
"""
# What boot.py will take: see device/boot.py.
SLOTS = """
try:
    import esp32
    c = esp32.NVS('tidegate').get_i32('slot')
except Exception:
    c = -1
def w(p):
    try:
        with open(p, 'rb') as f:
            f.seek(-5, 2)
            return f.read() == b'\\nend\\n'
    except OSError:
        return False
print([c] + [w(p) for p in {manifests!r}])
"""
CHOOSE = """
import esp32
n = esp32.NVS('tidegate')
n.set_i32('slot', {slot})
n.commit()
print(n.get_i32('slot'))
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
