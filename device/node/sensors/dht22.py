"""DHT22 (AM2302): temperature and humidity, one pin. Driver: dht, in the image."""

import dht

from node.sensor import Sensor


class Dht22(Sensor):
    UNITS = (("temperature_c", "°C"), ("humidity_pct", "%"))

    def open(self, settings, board):
        self._dht = dht.DHT22(board.machine.Pin(settings["pin"]))

    def read(self):
        self._dht.measure()  # 25 ms; a bad checksum raises and is tried again 2 s later
        return round(self._dht.temperature(), 1), round(self._dht.humidity(), 1)


make = Dht22
