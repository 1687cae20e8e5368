"""DS18B20 on a 1-Wire bus, one or several. Drivers: onewire and ds18x20, in the image.

One on the bus: its record has the sensor's name. Several: each has the name with the last four
hex digits of its serial number behind it, as in `soil-3f1c`, which a changed order keeps.
"""

import ds18x20
import onewire

from node.sensor import Sensor


class Ds18b20(Sensor):
    UNITS = (("temperature_c", "°C"),)
    WARM_MS = 750  # the conversion at 12 bits

    def open(self, settings, board):
        self._bus = ds18x20.DS18X20(onewire.OneWire(board.machine.Pin(settings["pin"])))
        self._roms = []
        self._several = settings.get("several", False)

    def start(self):
        if not self._roms:
            self._roms = self._bus.scan()
            if not self._roms:
                raise OSError("nothing on the bus")
            self._several = self._several or len(self._roms) > 1
        self._bus.convert_temp()

    def read(self):
        found, trouble = [], None
        for rom in self._roms:
            try:
                value = self._bus.read_temp(rom)
                if value == 85:  # what it says before its first conversion
                    raise ValueError("not converted")
                if not any(self._bus.buf):  # a shorted line: its zeros have the right checksum
                    raise OSError("shorted")
            except Exception as error:  # the driver raises bare Exception
                trouble = error
            else:
                found.append(("-%02x%02x" % (rom[5], rom[6]), (round(value, 4),)))
        if trouble and (not found or self.tries < self.RETRIES):
            raise trouble
        if trouble:  # the others at least; who is there is looked for anew
            print("sensor", self.name, "one of", len(self._roms), trouble)
            self.errors += 1
            self._roms = []
        return found if self._several else found[0][1]


make = Ds18b20
