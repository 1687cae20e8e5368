# The esp32 module: NVS behind the wire, so that it outlives the board's power as flash does.
from _host import ask

WAKEUP_ALL_LOW, WAKEUP_ANY_HIGH = False, True
HEAP_DATA, HEAP_EXEC = 4, 1


def wake_on_ext0(pin=None, level=None):
    pass


def wake_on_ext1(pins=None, level=None):
    pass


def wake_on_gpio(pins=None, level=None):
    pass


def raw_temperature():
    return int(mcu_temperature() * 9 / 5 + 32)


def mcu_temperature():
    return ask("chip")


def idf_heap_info(kind):
    return [(200000, 110000, 65536, 100000)]


class NVS:
    def __init__(self, namespace):
        if not 0 < len(namespace) < 16:
            raise OSError(-4355)
        self.space = namespace

    def _do(self, what, key, value=None):
        if len(key) > 15:
            raise OSError(-4361)
        return ask("nvs", what, self.space, key, value)

    def set_i32(self, key, value):
        self._do("set", key, int(value))

    def get_i32(self, key):
        return self._do("int", key)

    def set_blob(self, key, value):
        if isinstance(value, str):
            value = value.encode()
        self._do("set", key, bytes(value).hex())

    def get_blob(self, key, buf):
        blob = bytes.fromhex(self._do("blob", key))
        if len(blob) > len(buf):
            raise OSError(-4364)
        buf[: len(blob)] = blob
        return len(blob)

    def erase_key(self, key):
        self._do("erase", key)

    def commit(self):
        ask("nvs", "commit", self.space, "", None)
