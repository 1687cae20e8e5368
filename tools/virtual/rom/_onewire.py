# The 1-Wire line itself, slot by slot: what the image has in C.
from _host import ask


def reset(pin):
    return ask("ow", pin.n, "reset", 0)


def readbit(pin):
    return ask("ow", pin.n, "rbit", 0)


def readbyte(pin):
    return ask("ow", pin.n, "rbyte", 0)


def writebit(pin, bit):
    ask("ow", pin.n, "wbit", bit)


def writebyte(pin, byte):
    ask("ow", pin.n, "wbyte", byte)


def crc8(data):
    crc = 0
    for byte in data:
        for _ in range(8):
            low = (crc ^ byte) & 1
            crc = crc >> 1 ^ (0x8C if low else 0)
            byte >>= 1
    return crc
