"""What survives a power cut beside the ring: the boot counter and this board's life.

On the ESP32 in NVS (namespace "tidegate"), elsewhere in /memory.json.
"""

import json
import os

from micropython import const

_PATH = const("/memory.json")


def count(nvs, hard):
    """Count this boot. Return (life, boot, unhealthy, kept).

    life: 8 hex digits. boot: from 1. unhealthy: boots in a row before this one that did not end
    well. kept: whether that could be written; if not, life is drawn anew, so that no record ever
    gets the name of another.

    nvs: an esp32.NVS, or None for the file. hard: the boot before counts as unhealthy; not after
    a power cut, a sleep or a soft reset, which are not its fault.
    """
    try:
        life, boot, unhealthy = load(nvs)
        boot += 1
    except (OSError, ValueError, KeyError):
        life, boot, unhealthy = rand(), 1, 0
    if hard:
        unhealthy += 1
    try:
        write(nvs, life, boot, unhealthy)
    except OSError:
        return rand(), 1, unhealthy, False
    return life, boot, unhealthy, True


def write(nvs, life, boot, unhealthy):
    """Keep the counters. Raise OSError if that failed."""
    if nvs:
        nvs.set_i32("boot", boot)  # life last: without it the others do not count
        nvs.set_i32("unhealthy", unhealthy)
        nvs.set_blob("life", life.encode())
        nvs.commit()
    else:
        with open(_PATH, "w") as f:
            json.dump({"life": life, "boot": boot, "unhealthy": unhealthy}, f)


def healthy(board):
    """Say that this boot did its work."""
    life, boot, _, kept = board.identity()
    if kept:
        try:
            write(board._nvs(), life, boot, 0)
        except OSError:
            pass


def load(nvs):
    if nvs:
        life = bytearray(8)
        nvs.get_blob("life", life)
        return life.decode(), nvs.get_i32("boot"), nvs.get_i32("unhealthy")
    with open(_PATH) as f:
        data = json.load(f)
    return data["life"], data["boot"], data["unhealthy"]


def rand():
    return "".join(["%02x" % byte for byte in os.urandom(4)])
