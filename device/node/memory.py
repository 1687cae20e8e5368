"""What survives a power cut beside the ring: the boot counter and this board's life.

On the ESP32 in NVS (namespace "tidegate"), elsewhere in /memory.json.
"""

import json
import os

from micropython import const

_PATH = const("/memory.json")


def count(nvs, blame):
    """Count this boot. Return (life, boot, unhealthy, kept).

    life: 8 hex digits. boot: from 1. unhealthy: boots in a row before this one that did not end
    well. kept: whether that could be written; if not, life is drawn anew, so that no record ever
    gets the name of another.

    nvs: an esp32.NVS, or None for the file. blame: the boot before counts as unhealthy; not after
    a power cut, a sleep or a soft reset, which are not its fault.
    """
    try:
        life, boot, unhealthy = _load(nvs)
        boot += 1
    except (OSError, ValueError, KeyError):
        life, boot, unhealthy = _draw(), 1, 0
    if blame:
        unhealthy += 1
    try:
        save(nvs, life, boot, unhealthy)
    except OSError:
        return _draw(), 1, unhealthy, False
    return life, boot, unhealthy, True


def save(nvs, life, boot, unhealthy):
    """Keep the counters. Raise OSError if that failed."""
    if nvs:
        nvs.set_i32("boot", boot)  # life last: without it the others do not count
        nvs.set_i32("unhealthy", unhealthy)
        nvs.set_blob("life", life.encode())
        nvs.commit()
    else:
        with open(_PATH, "w") as f:
            json.dump({"life": life, "boot": boot, "unhealthy": unhealthy}, f)


def _load(nvs):
    if nvs:
        life = bytearray(8)
        nvs.get_blob("life", life)
        return life.decode(), nvs.get_i32("boot"), nvs.get_i32("unhealthy")
    with open(_PATH) as f:
        data = json.load(f)
    return data["life"], data["boot"], data["unhealthy"]


def _draw():
    return "".join(["%02x" % byte for byte in os.urandom(4)])
