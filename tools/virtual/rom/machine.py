# The machine module of the ESP32 port, as far as the world around a virtual board plays it.
from umachine import *
import micropython
from _host import ask, tell, handlers


def __getattr__(name):
    # What fewer firmwares use is loaded when it is asked for: this heap is as small as a chip's.
    import _machine

    return getattr(_machine, name)


PWRON_RESET, HARD_RESET, WDT_RESET, DEEPSLEEP_RESET, SOFT_RESET = 1, 2, 3, 4, 5


def reset():
    ask("reset", "hard")


def soft_reset():
    raise SystemExit


def reset_cause():
    return ask("cause")


def unique_id():
    return bytes.fromhex(ask("id"))


def freq(hz=None):
    return 160000000 if hz is None else None


def deepsleep(ms=0):
    ask("sleep", ms)


def idle():
    pass


class Pin(PinBase):
    IN, OUT, OPEN_DRAIN = 1, 3, 7
    PULL_DOWN, PULL_UP = 1, 2
    IRQ_RISING, IRQ_FALLING, WAKE_LOW, WAKE_HIGH = 1, 2, 4, 5
    DRIVE_0, DRIVE_1, DRIVE_2, DRIVE_3 = 0, 1, 2, 3

    def __init__(self, n, mode=-1, pull=-1, *, value=None, drive=0, hold=False):
        self.n = n.n if isinstance(n, Pin) else n
        self.init(mode, pull, value=value)

    def init(self, mode=-1, pull=-1, *, value=None, drive=0, hold=False):
        ask("mode", self.n, mode, pull)
        if value is not None:
            self.value(value)

    def value(self, x=None):
        if x is None:
            return ask("pin", self.n)
        tell("set", self.n, 1 if x else 0)

    __call__ = value

    def on(self):
        self.value(1)

    def off(self):
        self.value(0)

    def irq(self, handler=None, trigger=3, wake=None):
        if handler is None:
            handlers.pop(self.n, None)
        else:
            handlers[self.n] = lambda: micropython.schedule(handler, self)
        ask("irq", self.n, trigger if handler else 0)

    def __repr__(self):
        return "Pin(%d)" % self.n


class ADC:
    ATTN_0DB, ATTN_2_5DB, ATTN_6DB, ATTN_11DB = 0, 1, 2, 3
    WIDTH_9BIT, WIDTH_10BIT, WIDTH_11BIT, WIDTH_12BIT = 9, 10, 11, 12

    def __init__(self, pin, atten=0):
        self.n = pin.n if isinstance(pin, Pin) else pin
        self._atten = atten

    def init(self, atten=0):
        self._atten = atten

    def atten(self, atten):
        self._atten = atten

    def width(self, bits):
        pass

    def read_uv(self):
        return min(ask("adc", self.n), (1100000, 1500000, 2200000, 3300000)[self._atten])

    def read_u16(self):
        return self.read_uv() * 65535 // (1100000, 1500000, 2200000, 3300000)[self._atten]

    def read(self):
        return self.read_u16() >> 4


class WDT:
    def __init__(self, id=0, timeout=5000):
        ask("wdt", timeout)

    def feed(self):
        tell("feed")
