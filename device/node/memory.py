"""What survives a power cut beside the ring: the boot counter and this board's life.

On the ESP32 in NVS (namespace "tidegate"), elsewhere in a small file.
"""

import json
import os


class FileMemory:
    """Numbers in one small file. load(), save(): as NvsMemory."""

    def __init__(self, path="/memory.json"):
        self._path = path

    def load(self):
        try:
            with open(self._path) as f:
                data = json.load(f)
            return data["life"], data["boot"], data["unhealthy"]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def save(self, life, boot, unhealthy):
        with open(self._path, "w") as f:
            json.dump({"life": life, "boot": boot, "unhealthy": unhealthy}, f)


class NvsMemory:
    """The same in the ESP32's non-volatile storage. nvs: esp32.NVS of our namespace."""

    def __init__(self, nvs):
        self._nvs = nvs

    def load(self):
        """Return (life, boot, unhealthy boots in a row), or None if nothing was saved."""
        life = bytearray(8)
        try:
            if self._nvs.get_blob("life", life) != 8:
                return None
            return life.decode(), self._nvs.get_i32("boot"), self._nvs.get_i32("unhealthy")
        except OSError:
            return None

    def save(self, life, boot, unhealthy):
        """Keep them. Raise OSError."""
        nvs = self._nvs
        nvs.set_i32("boot", boot)  # before life: a cut between them gives a new life
        nvs.set_i32("unhealthy", unhealthy)
        nvs.set_blob("life", life.encode())
        nvs.commit()


class Identity:
    """life (8 hex digits), boot (from 1), unhealthy: boots in a row before this one that did not
    end well. Counts this boot when it is made.

    If it cannot be kept, life is drawn anew, so that no record ever gets a name twice.
    """

    def __init__(self, memory):
        self._memory = memory
        kept = memory.load()
        if kept:
            self.life, self.boot, self.unhealthy = kept[0], kept[1] + 1, kept[2]
        else:
            self.life, self.boot, self.unhealthy = _draw(), 1, 0
        self.kept = True
        self._healthy = False
        try:
            memory.save(self.life, self.boot, self.unhealthy + 1)
        except OSError:
            self.life, self.boot, self.kept = _draw(), 1, False

    def healthy(self):
        """Say that this boot does its work; remembered once."""
        if not self._healthy and self.kept:
            self._healthy = True
            try:
                self._memory.save(self.life, self.boot, 0)
            except OSError:
                pass


def _draw():
    return "".join(["%02x" % byte for byte in os.urandom(4)])
