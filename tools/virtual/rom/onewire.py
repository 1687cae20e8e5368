# The 1-Wire bus with the interface of the image's driver: reset, bytes, and the ROM search.
import _onewire as _ow


class OneWireError(Exception):
    pass


class OneWire:
    SEARCH_ROM = 0xF0
    MATCH_ROM = 0x55
    SKIP_ROM = 0xCC

    def __init__(self, pin):
        self.pin = pin
        pin.init(pin.OPEN_DRAIN, pin.PULL_UP)

    def reset(self, required=False):
        there = _ow.reset(self.pin)
        if required and not there:
            raise OneWireError
        return there

    def readbit(self):
        return _ow.readbit(self.pin)

    def readbyte(self):
        return _ow.readbyte(self.pin)

    def readinto(self, buf):
        for at in range(len(buf)):
            buf[at] = _ow.readbyte(self.pin)

    def writebit(self, value):
        return _ow.writebit(self.pin, value)

    def writebyte(self, value):
        return _ow.writebyte(self.pin, value)

    def write(self, buf):
        for byte in buf:
            _ow.writebyte(self.pin, byte)

    def select_rom(self, rom):
        self.reset()
        self.writebyte(self.MATCH_ROM)
        self.write(rom)

    def crc8(self, data):
        return _ow.crc8(data)

    def scan(self):
        # Walks the tree of ROM codes: at a fork, 0 first; the last fork left at 0 turns next.
        found = []
        rom = bytearray(8)
        fork = -1
        while True:
            last = -1
            if not self.reset():
                return found
            self.writebyte(self.SEARCH_ROM)
            for at in range(64):
                zero, one = self.readbit(), self.readbit()
                if zero and one:
                    return found
                if zero != one:
                    bit = zero
                else:
                    bit = rom[at >> 3] >> (at & 7) & 1 if at < fork else int(at == fork)
                    if not bit:
                        last = at
                mask = 1 << (at & 7)
                rom[at >> 3] = rom[at >> 3] & ~mask | (mask if bit else 0)
                self.writebit(bit)
            if self.crc8(rom) == 0:
                found.append(bytearray(rom))
            fork = last
            if fork < 0:
                return found
