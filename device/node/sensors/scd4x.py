"""Sensirion SCD40, SCD41: CO2, temperature and humidity over I2C, a new value every 5 s."""

from node.sensors.sensirion import Sensirion


class Scd4x(Sensirion):
    UNITS = (("co2_ppm", "ppm"), ("temperature_c", "°C"), ("humidity_pct", "%"))
    ADDRESS = 0x62
    WARM_MS = 2
    RETRY_MS = 1000
    RETRIES = 6

    def open(self, settings, board):
        super().open(settings, board)
        self._fresh = True

    def start(self):
        if self._fresh:
            self._fresh = False
            try:
                self.command(b"\x21\xb1")  # measure every 5 s
            except OSError:
                pass  # it does so already, since before our reset
        self.command(b"\xe4\xb8")

    def read(self):
        if not self.words(1)[0] & 0x7FF:
            self._fresh = self.tries == self.RETRIES  # it lost its power alone: tell it again
            raise OSError("no new value yet")
        self.command(b"\xec\x05")
        co2, temperature, humidity = self.words(3)
        return co2, round(175 * temperature / 65535 - 45, 2), round(100 * humidity / 65535, 2)


make = Scd4x
