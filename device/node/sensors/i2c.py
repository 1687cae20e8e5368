"""What sensors on an I2C bus share."""

from node.sensor import Sensor


class I2cSensor(Sensor):
    """ADDRESS: where it answers unless the settings have "address". Pins: "scl" and "sda"."""

    ADDRESS = 0

    def open(self, settings, board):
        machine = board.machine
        self._i2c = machine.SoftI2C(
            scl=machine.Pin(settings["scl"]),
            sda=machine.Pin(settings["sda"]),
            freq=settings.get("freq", 100000),
        )
        self._address = settings.get("address", self.ADDRESS)
