"""Sensirion SHT30, SHT31, SHT35: temperature and humidity over I2C."""

from node.sensors.sensirion import Sensirion


class Sht3x(Sensirion):
    UNITS = (("temperature_c", "°C"), ("humidity_pct", "%"))
    ADDRESS = 0x44
    WARM_MS = 16

    def start(self):
        self.command(b"\x24\x00")  # one measurement, high repeatability

    def read(self):
        temperature, humidity = self.words(2)
        return round(175 * temperature / 65535 - 45, 2), round(100 * humidity / 65535, 2)


make = Sht3x
