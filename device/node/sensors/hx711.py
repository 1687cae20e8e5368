"""HX711: a load cell. Two pins, bit by bit; a reader of our own, as no driver can be installed.

    {"kind": "hx711", "name": "hive", "dout": 16, "sck": 17, "zero": 8312, "per_unit": 21.7,
     "value": "mass_g", "unit": "g"}
"""

from node.sensor import Sensor


class Hx711(Sensor):
    RETRY_MS = 200  # it has a new value ten times a second

    def open(self, settings, board):
        pin = board.machine.Pin
        self._machine = board.machine
        self._data = pin(settings["dout"], pin.IN)
        self._clock = pin(settings["sck"], pin.OUT, value=0)
        self._zero = settings.get("zero", 0)
        self._per_unit = settings.get("per_unit", 1)
        self.UNITS = ((settings.get("value", "raw"), settings.get("unit", "")),)

    def read(self):
        if self._data.value():
            raise OSError("no new value yet")
        raw = 0
        for bit in range(25):  # 24 bits, and one pulse that asks for channel A, gain 128, next
            state = self._machine.disable_irq()  # a pulse of over 60 us turns the chip off
            self._clock.value(1)
            self._clock.value(0)
            self._machine.enable_irq(state)
            if bit < 24:
                raw = raw << 1 | self._data.value()
        if raw & 0x800000:
            raw -= 0x1000000
        if raw in (0x7FFFFF, -0x800000):
            raise ValueError("out of range")
        return (round((raw - self._zero) / self._per_unit, 2),)


make = Hx711
