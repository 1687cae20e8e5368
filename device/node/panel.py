"""LED and button. Loaded only where the settings name one of them.

The LED says what is wrong by its rhythm, in twenty steps of 100 ms:

    one short flash in two seconds     all is well
    two short flashes                  no gateway
    a second on, a second off          no Wi-Fi
    quick blinking                     "identify" was asked for, or the button is held
"""

from micropython import const

_WELL = const(0b1)
_NO_GATEWAY = const(0b101)
_NO_WIFI = const(0b1111111111)
_QUICK = const(0b10101010101010101010)
_HOLD_MS = const(10000)


class Panel:
    """led: {"pin", "invert" or "kind": "neopixel"} or None; button: {"pin"} or None, to ground."""

    def __init__(self, machine, led, button):
        pin = machine.Pin
        self._led = self._button = None
        self._lit = -1
        self._held = -1
        if led:
            self._led = pin(led["pin"], pin.OUT)
            self._invert = 1 if led.get("invert") else 0
            if led.get("kind") == "neopixel":
                import neopixel

                self._pixel = neopixel.NeoPixel(self._led, 1)
            else:
                self._pixel = None
        if button:
            self._button = pin(button["pin"], pin.IN, pin.PULL_UP)

    def step(self, now, wifi_up, online, identify):
        """Show how it is; return True when the button has been held for ten seconds."""
        held = self._button is not None and not self._button.value()
        if not held:
            self._held = -1
        elif self._held < 0:
            self._held = now
        if identify or held:
            rhythm = _QUICK
        elif not wifi_up:
            rhythm = _NO_WIFI
        else:
            rhythm = _WELL if online else _NO_GATEWAY
        if self._led:
            self._light(rhythm >> (now // 100 % 20) & 1)
        return held and now - self._held >= _HOLD_MS

    def _light(self, on):
        if on == self._lit:
            return
        self._lit = on
        if self._pixel:
            self._pixel[0] = (8, 8, 8) if on else (0, 0, 0)
            self._pixel.write()
        else:
            self._led.value(on ^ self._invert)
