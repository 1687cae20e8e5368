# The machine module of the ESP32 port, as far as the world around a virtual board plays it.
from umachine import *
import micropython
from _host import ask, tell, handlers

PWRON_RESET, HARD_RESET, WDT_RESET, DEEPSLEEP_RESET, SOFT_RESET = 1, 2, 3, 4, 5
PIN_WAKE, EXT0_WAKE, EXT1_WAKE, TIMER_WAKE, TOUCHPAD_WAKE, ULP_WAKE = 2, 2, 3, 4, 5, 6
SLEEP, DEEPSLEEP = 2, 4


def reset():
    ask("reset", "hard")


def soft_reset():
    raise SystemExit


def reset_cause():
    return ask("cause")


def wake_reason():
    return ask("wake")


def unique_id():
    return bytes.fromhex(ask("id"))


def freq(hz=None):
    return 160000000 if hz is None else None


def deepsleep(ms=0):
    ask("sleep", ms)


def lightsleep(ms=0):
    import time

    time.sleep_ms(ms)


def idle():
    pass


def disable_irq():
    return 0


def enable_irq(state=0):
    pass


def bitstream(pin, encoding, timing, buf):
    tell("bits", pin.n, bytes(buf).hex())


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


class PWM:
    def __init__(self, pin, freq=5000, duty=None, *, duty_u16=None, duty_ns=None):
        self.n = pin.n
        self._freq = freq
        self._duty = duty_u16 or (duty or 0) * 64
        tell("pwm", self.n, self._freq, self._duty)

    def init(self, freq=None, duty_u16=None):
        self._freq = self._freq if freq is None else freq
        self.duty_u16(self._duty if duty_u16 is None else duty_u16)

    def freq(self, hz=None):
        if hz is None:
            return self._freq
        self._freq = hz
        tell("pwm", self.n, self._freq, self._duty)

    def duty_u16(self, duty=None):
        if duty is None:
            return self._duty
        self._duty = duty
        tell("pwm", self.n, self._freq, self._duty)

    def duty(self, duty=None):
        return self.duty_u16() // 64 if duty is None else self.duty_u16(duty * 64)

    def deinit(self):
        tell("pwm", self.n, self._freq, 0)


class I2C:
    def __init__(self, id=0, *, scl=None, sda=None, freq=400000, timeout=50000):
        self.bus = [scl.n if scl else -1, sda.n if sda else -1]

    def scan(self):
        return ask("i2c", self.bus, "scan", 0, "", 0)

    def writeto(self, addr, buf, stop=True):
        return ask("i2c", self.bus, "write", addr, bytes(buf).hex(), 1 if stop else 0)

    def writevto(self, addr, vector, stop=True):
        return self.writeto(addr, b"".join(vector), stop)

    def readfrom(self, addr, count, stop=True):
        return bytes.fromhex(ask("i2c", self.bus, "read", addr, "", count))

    def readfrom_into(self, addr, buf, stop=True):
        buf[:] = self.readfrom(addr, len(buf))

    def writeto_mem(self, addr, reg, buf, *, addrsize=8):
        self.writeto(addr, reg.to_bytes(addrsize // 8, "big") + bytes(buf))

    def readfrom_mem(self, addr, reg, count, *, addrsize=8):
        self.writeto(addr, reg.to_bytes(addrsize // 8, "big"), False)
        return self.readfrom(addr, count)

    def readfrom_mem_into(self, addr, reg, buf, *, addrsize=8):
        buf[:] = self.readfrom_mem(addr, reg, len(buf), addrsize=addrsize)


SoftI2C = I2C


class RTC:
    def datetime(self, when=None):
        return tuple(ask("rtc", list(when) if when else None))

    def memory(self, data=None):
        if data is None:
            return bytes.fromhex(ask("mem", None))
        ask("mem", bytes(data).hex())


class WDT:
    def __init__(self, id=0, timeout=5000):
        ask("wdt", timeout)

    def feed(self):
        tell("feed")
