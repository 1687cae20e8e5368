"""Wiring: settings in, objects out, and the loop that runs them."""

import gc
import os
import time

from node import VERSION, board
from node.backoff import Backoff
from node.clock import Uptime
from node.flash import Store
from node.health import Health
from node.link import Link
from node.ring import Ring
from node.sensor import Sampler, make
from node.uplink import Uplink
from node.wifi import Wifi

try:
    from micropython import const
except ImportError:  # CPython

    def const(value):
        return value


_IDLE_MS = const(50)


def rand():
    """Return a random number from 0 up to 1: from the hardware, boards must not agree."""
    data = os.urandom(3)
    return (data[0] << 16 | data[1] << 8 | data[2]) / 16777216


class App:
    """The node. settings: as node.settings.load() gives them."""

    def __init__(self, settings):
        self.settings = settings
        self.clock = Uptime(time.ticks_ms, time.ticks_diff)
        now_ms = self.clock.now
        self.identity = board.identity()
        life = bytes([int(self.identity.life[i : i + 2], 16) for i in (0, 2, 4, 6)])
        self.boot = self.identity.boot
        device = settings["device"]
        print("tidegate", VERSION, device, "life", self.identity.life, "boot", self.boot)
        self._hold_ms = settings["hold_ms"]
        self._hold_since = -1
        self.ring = Ring(
            Store("/ring"),
            life,
            self.boot,
            settings["ring"]["ram_bytes"],
            settings["ring"]["flash_bytes"],
            self._told if settings["tell"] else None,
        )
        self.health = Health(self, settings["health_s"])
        self.sampler = Sampler(self._sensors(settings), self.put)
        self.wifi = Wifi(
            now_ms, settings["wifi"]["ssid"], settings["wifi"]["password"], device
        )
        gateway = settings["gateway"]
        prefix = ("tidegate/" + device).encode()
        self.link = Link(
            now_ms,
            device.encode(),
            gateway["host"],
            gateway["port"],
            prefix + b"/down/#",
            prefix + b"/status",
            _bytes(gateway["user"]),
            _bytes(gateway["password"]),
            gateway["keepalive_s"],
            tls_context(gateway["tls"]),
        )
        self.uplink = Uplink(
            self.link,
            self.ring,
            Backoff(cap_ms=gateway["retry_max_s"] * 1000),
            rand,
            now_ms,
            device,
            self.health.about,
            self.command,
            settings["qos"],
            settings["delivery"] == "broker",
        )
        self.reboot_at = -1
        self.identify_until = -1
        self.health.look()

    def _sensors(self, settings):
        made = []
        pins = board.Pins()
        for entry in settings["sensors"]:
            try:
                made.append(make(entry, pins))
            except Exception as error:  # one bad sensor must not take the others along
                print("sensor", entry["name"], "not usable:", type(error).__name__, error)
                self.health.failed.append(entry["name"])
        return made

    def put(self, uptime_ms, name, keys, values):
        """Take a reading into the ring."""
        self.ring.add(uptime_ms, name, keys, values)
        if self._hold_since < 0:
            self._hold_since = uptime_ms

    def _told(self, _life, boot, first, last):
        for seq in range(first, last + 1):
            print("rec", self.identity.life, boot, seq)

    def command(self, data):
        from node.commands import run  # seldom needed: not worth its heap all the time

        return run(self, data)

    def step(self):
        """Do what is due; return how long [ms] nothing else is."""
        now = self.clock.now()
        self.sampler.step(now)
        self.health.step(now)
        if self._hold_since >= 0 and now - self._hold_since >= self._hold_ms:
            self.ring.commit()
            self._hold_since = -1
        self.wifi.step()
        self.uplink.step(self.wifi.up)
        if self.uplink.acked:
            self.identity.healthy()
        if 0 <= self.reboot_at <= now:
            self.ring.commit()
            self.link.disconnect()
            board.reset()
        board.feed()
        wait = self.sampler.next_ms(now, _IDLE_MS)
        if self._hold_since >= 0:
            wait = min(wait, max(0, self._hold_since + self._hold_ms - now))
        return wait

    def run(self):
        """Run for ever."""
        board.watchdog(self.settings["watchdog_s"])
        while True:
            wait_ms = self.step()
            if wait_ms > 0 and not self.link.wire.wait(wait_ms):
                time.sleep_ms(wait_ms)


def tls_context(tls):
    """Return an SSLContext for settings["gateway"]["tls"], or None."""
    if not tls:
        return None
    import ssl

    gc.collect()  # mbedTLS wants its memory in large pieces
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if tls is True:
        context.verify_mode = ssl.CERT_NONE  # encrypted, not authenticated; docs/firmware.md
    else:
        context.verify_mode = ssl.CERT_REQUIRED
        with open(tls["ca"], "rb") as f:
            context.load_verify_locations(f.read())
    return context


def _bytes(text):
    return None if text is None else text.encode()
