"""The chip's own temperature: no wire at all, good for a first test."""

from node.sensor import Sensor


class Chip(Sensor):
    UNITS = (("temperature_c", "°C"),)

    def open(self, settings, board):
        esp32 = board.esp32
        if hasattr(esp32, "mcu_temperature"):  # ESP32-C3, C6, S2, S3
            self._read = esp32.mcu_temperature
        elif hasattr(esp32, "raw_temperature"):  # ESP32: in °F
            self._read = lambda: round((esp32.raw_temperature() - 32) / 1.8, 1)
        else:
            raise OSError("no temperature sensor on this chip")

    def read(self):
        return (self._read(),)


make = Chip
