"""The board: the only file that imports machine and esp32."""

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
        _identity = once("memory").Identity(nvs)
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


# -- what sensors ask for


def pin(number, *args):
    return machine.Pin(number, *args)


def input_pin(number, pull_up=False):
    return machine.Pin(number, machine.Pin.IN, machine.Pin.PULL_UP if pull_up else None)


def adc(number):
    """Return an ADC for the whole range, about 0.1 to 3.1 V."""
    return machine.ADC(machine.Pin(number), atten=machine.ADC.ATTN_11DB)


def i2c(settings):
    """Return the I2C bus of a sensor's settings: scl, sda (pins), freq."""
    scl, sda = machine.Pin(settings["scl"]), machine.Pin(settings["sda"])
    return machine.SoftI2C(scl=scl, sda=sda, freq=settings.get("freq", 100000))


def chip_celsius():
    """Return the chip's own temperature [°C]. Raise OSError if the chip has no such sensor."""
    if hasattr(esp32, "mcu_temperature"):  # ESP32-C3, C6, S2, S3
        return esp32.mcu_temperature()
    if hasattr(esp32, "raw_temperature"):  # ESP32: in °F
        return round((esp32.raw_temperature() - 32) / 1.8, 1)
    raise OSError("no temperature sensor on this chip")
