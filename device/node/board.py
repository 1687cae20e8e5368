"""The board: the only file that imports machine and esp32.

Sensors get this module, and reach what they need as board.machine and board.esp32.
"""

import os

import machine

from node import once

try:
    import esp32
except ImportError:  # not an ESP32
    esp32 = None

_identity = None
_watchdog = None


def identity():
    """Return (life, boot, unhealthy boots, kept), see node.memory.

    The boot is counted by the first call after a reset.
    """
    global _identity
    if _identity is None:
        try:
            _identity = once("memory").count(_nvs(), reset_reason() in ("hard", "wdt"))
        except OSError:  # its partition is full or broken: a life for this boot alone
            _identity = "%02x%02x%02x%02x" % tuple(os.urandom(4)), 1, 0, False
    return _identity


def _nvs():
    return esp32.NVS("tidegate") if hasattr(esp32, "NVS") else None


def rand():
    """Return a random number from 0 up to 1: from the hardware, boards must not agree."""
    data = os.urandom(3)
    return (data[0] << 16 | data[1] << 8 | data[2]) / 16777216


def reset_reason():
    """Return why the board started; a brownout looks like power-on (the port reports it so)."""
    cause = machine.reset_cause()
    for name in ("PWRON", "HARD", "WDT", "DEEPSLEEP", "SOFT"):
        if getattr(machine, name + "_RESET", None) == cause:
            return name.lower()
    return str(cause)


def reset():
    machine.reset()


def watchdog(timeout):
    """Start the watchdog. timeout [s], 0: none."""
    global _watchdog
    if timeout:
        _watchdog = machine.WDT(timeout=int(timeout * 1000))


def feed():
    if _watchdog:
        _watchdog.feed()


def relax_watchdog():
    """Give a developer at the prompt an hour: a watchdog cannot be stopped, only made anew."""
    if _watchdog:
        watchdog(3600)
