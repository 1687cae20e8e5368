# The rest of the machine module: what not every firmware uses.
from _host import ask, tell

PIN_WAKE, EXT0_WAKE, EXT1_WAKE, TIMER_WAKE, TOUCHPAD_WAKE, ULP_WAKE = 2, 2, 3, 4, 5, 6
SLEEP, DEEPSLEEP = 2, 4


def wake_reason():
    return ask("wake")


def lightsleep(ms=0):
    import time

    time.sleep_ms(ms)


def disable_irq():
    return 0


def enable_irq(state=0):
    pass


def bitstream(pin, encoding, timing, buf):
    tell("bits", pin.n, bytes(buf).hex())


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
