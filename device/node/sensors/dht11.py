"""DHT11: temperature and humidity in whole units, one pin. Driver: dht, in the image."""

import dht

from node.sensors.dht22 import Dht22


class Dht11(Dht22):
    def open(self, settings, board):
        self._dht = dht.DHT11(board.machine.Pin(settings["pin"]))


make = Dht11
