"""Sensirion SHT40, SHT41, SHT45: temperature and humidity over I2C."""

from node.sensors.sensirion import Sensirion


class Sht4x(Sensirion):
    UNITS = (("temperature_c", "°C"), ("humidity_pct", "%"))
    ADDRESS = 0x44
    WARM_MS = 10

    def start(self):
        self.command(b"\xfd")  # high precision

    def read(self):
        temperature, humidity = self.words(2)
        percent = 125 * humidity / 65535 - 6  # the sensor's own formula leaves 0 to 100
        return round(175 * temperature / 65535 - 45, 2), round(min(100, max(0, percent)), 2)


make = Sht4x
