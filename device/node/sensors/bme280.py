"""Bosch BME280 and BMP280 over I2C: temperature, pressure, and humidity where there is one.

A reader of our own: the drivers that could be installed take 20 KB of heap. The arithmetic is
that of the BME280 datasheet (BST-BME280-DS002, 4.2.3 and 8.1).
"""

from struct import unpack, unpack_from

from node.sensors.i2c import I2cSensor


class Bme280(I2cSensor):
    ADDRESS = 0x76
    WARM_MS = 12
    UNITS = (("temperature_c", "°C"), ("pressure_hpa", "hPa"))

    def open(self, settings, board):
        super().open(settings, board)
        self._t = None

    def _find(self):
        """Ask the chip what it is. Not when the board starts: it may be plugged in later."""
        chip = self._get(0xD0, 1)[0]
        if chip not in (0x58, 0x60):
            raise OSError("no BME280 or BMP280, chip id 0x%02x" % chip)
        t = unpack("<Hhh", self._get(0x88, 6))
        self._p = unpack("<Hhhhhhhhh", self._get(0x8E, 18))
        self._h = None
        if chip == 0x60:
            rest = self._get(0xE1, 7)
            h2, h3, e4, e5, e6, h6 = unpack("<hBbBbb", rest)
            self._h = (self._get(0xA1, 1)[0], h2, h3, e4 << 4 | e5 & 15, e6 << 4 | e5 >> 4, h6)
            self.UNITS = Bme280.UNITS + (("humidity_pct", "%"),)
            self.keys = tuple([key for key, _unit in self.UNITS])
        self._t = t  # last: now it is all there

    def _get(self, register, count):
        return self._i2c.readfrom_mem(self._address, register, count)

    def start(self):
        i2c = self._i2c
        if self._t is None:
            self._find()
        if self._h:
            i2c.writeto_mem(self._address, 0xF2, b"\x01")
        i2c.writeto_mem(self._address, 0xF4, b"\x25")  # everything once, then sleep

    def read(self):
        data = self._get(0xF7, 8 if self._h else 6)
        raw_p = data[0] << 12 | data[1] << 4 | data[2] >> 4
        raw_t = data[3] << 12 | data[4] << 4 | data[5] >> 4
        t1, t2, t3 = self._t
        d = raw_t / 131072 - t1 / 8192
        fine = (raw_t / 16384 - t1 / 1024) * t2 + d * d * t3
        values = (round(fine / 5120, 2), round(self._pressure(raw_p, fine) / 100, 2))
        if self._h:
            values += (round(self._humidity(unpack_from(">H", data, 6)[0], fine), 2),)
        return values

    def _pressure(self, raw, fine):
        """Return the pressure [Pa]."""
        p1, p2, p3, p4, p5, p6, p7, p8, p9 = self._p
        a = fine / 2 - 64000
        b = a * a * p6 / 32768 + a * p5 * 2
        b = b / 4 + p4 * 65536
        a = (p3 * a * a / 524288 + p2 * a) / 524288
        a = (1 + a / 32768) * p1
        if a == 0:
            raise ValueError("not calibrated")
        p = (1048576 - raw - b / 4096) * 6250 / a
        return p + (p9 * p * p / 2147483648 + p * p8 / 32768 + p7) / 16

    def _humidity(self, raw, fine):
        """Return the relative humidity [%]."""
        h1, h2, h3, h4, h5, h6 = self._h
        a = fine - 76800
        b = raw - (h4 * 64 + h5 / 16384 * a)
        b *= h2 / 65536 * (1 + h6 / 67108864 * a * (1 + h3 / 67108864 * a))
        b *= 1 - h1 * b / 524288
        return min(100, max(0, b))


make = Bme280
