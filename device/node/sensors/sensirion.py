"""Sensirion's way over I2C: a command out, 16-bit words with a checksum each back."""

from node.sensors.i2c import I2cSensor


class Sensirion(I2cSensor):
    def command(self, code):
        """Send a command of one or two bytes."""
        self._i2c.writeto(self._address, code)

    def words(self, count):
        """Return that many words. Raise ValueError if a checksum is wrong."""
        data = self._i2c.readfrom(self._address, 3 * count)
        words = []
        for at in range(0, 3 * count, 3):
            if crc8(data[at : at + 2]) != data[at + 2]:
                raise ValueError("checksum")
            words.append(data[at] << 8 | data[at + 1])
        return words


def crc8(data):
    """CRC-8 with polynomial 0x31 and start 0xff (Sensirion SHT4x datasheet, 4.4)."""
    crc = 0xFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc << 1 ^ 0x31 if crc & 0x80 else crc << 1) & 0xFF
    return crc
