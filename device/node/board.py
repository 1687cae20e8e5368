"""The board: the only file that imports machine and esp32.

Sensors get this module, and reach what they need as board.machine and board.esp32.
"""

import machine

from node import once

try:
    import esp32
except ImportError:  # not an ESP32
    esp32 = None

_identity = None
_watchdog = None


def identity():
    """Return this boot's Identity; the boot is counted by the first call after a reset."""
    global _identity
    if _identity is None:
        nvs = esp32.NVS("tidegate") if hasattr(esp32, "NVS") else None
        _identity = once("memory").Identity(nvs, reset_reason() in ("hard", "wdt"))
    return _identity


def reset_reason():
    """Return why the board started; a brownout looks like power-on (the port reports it so)."""
    cause = machine.reset_cause()
    for name in ("PWRON", "HARD", "WDT", "DEEPSLEEP", "SOFT"):
        if getattr(machine, name + "_RESET", None) == cause:
            return name.lower()
    return str(cause)


def reset():
    machine.reset()


def watchdog(seconds):
    """Start the watchdog; 0: none."""
    global _watchdog
    if seconds:
        _watchdog = machine.WDT(timeout=int(seconds * 1000))


def feed():
    if _watchdog:
        _watchdog.feed()


def relax_watchdog():
    """Give a developer at the prompt an hour: a watchdog cannot be stopped, only made anew."""
    if _watchdog:
        watchdog(3600)
