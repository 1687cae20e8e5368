"""What survives a power cut beside the ring: the boot counter and this board's life.

On the ESP32 in NVS (namespace "tidegate"), elsewhere in /memory.json.
"""

import json
import os

_PATH = "/memory.json"


class Identity:
    """life (8 hex digits), boot (from 1), unhealthy: boots in a row before this one that did not
    end well. Counts this boot when it is made.

    nvs: an esp32.NVS, or None for the file. blame: the boot before counts as unhealthy; not after
    a power cut, a sleep or a soft reset, which are not its fault. If the count cannot be kept,
    life is drawn anew, so that no record ever gets the name of another.
    """

    def __init__(self, nvs, blame):
        self._nvs = nvs
        self._ill = True
        try:
            self.life, boot, self.unhealthy = self._load()
            self.boot = boot + 1
        except (OSError, ValueError, KeyError):
            self.life, self.boot, self.unhealthy = _draw(), 1, 0
        try:
            if blame:
                self.unhealthy += 1
            self._save(self.unhealthy)
        except OSError:
            self.life, self.boot, self._ill = _draw(), 1, False

    def healthy(self):
        """Say that this boot does its work; kept once."""
        if self._ill:
            self._ill = False
            try:
                self._save(0)
            except OSError:
                pass

    def _load(self):
        nvs = self._nvs
        if nvs:
            life = bytearray(8)
            nvs.get_blob("life", life)
            return life.decode(), nvs.get_i32("boot"), nvs.get_i32("unhealthy")
        with open(_PATH) as f:
            data = json.load(f)
        return data["life"], data["boot"], data["unhealthy"]

    def _save(self, unhealthy):
        nvs = self._nvs
        if nvs:
            nvs.set_i32("boot", self.boot)  # life last: without it the others do not count
            nvs.set_i32("unhealthy", unhealthy)
            nvs.set_blob("life", self.life.encode())
            nvs.commit()
        else:
            with open(_PATH, "w") as f:
                json.dump({"life": self.life, "boot": self.boot, "unhealthy": unhealthy}, f)


def _draw():
    return "".join(["%02x" % byte for byte in os.urandom(4)])
