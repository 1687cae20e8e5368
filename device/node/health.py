"""How the board is: the health record, about, and the heap's low-water mark."""

import gc
import json
import sys

from node import VERSION, board

try:
    from micropython import const
except ImportError:  # CPython

    def const(value):
        return value


_LOOK_MS = const(5000)
KEYS = (
    "heap_free_b",
    "heap_low_b",
    "rssi_dbm",
    "connects",
    "wifi_lost",
    "unacked",
    "segments",
    "dropped",
    "sensor_errors",
    "flash_errors",
)


class Health:
    """app: the node.app.App. period_s: of the health record, 0: none."""

    def __init__(self, app, period_s):
        self._app = app
        self._period_ms = int(period_s * 1000)
        self._due = self._period_ms
        self._look_due = 0
        self.low = 1 << 29
        self.free = 0
        self.failed = []  # names of sensors that could not be used

    def step(self, now):
        if now >= self._look_due:
            self._look_due = now + _LOOK_MS
            self.look()
        if self._period_ms and now >= self._due:
            self._due = now + self._period_ms
            self.record(now)

    def look(self):
        """Measure the heap: what is free after a collection, and the least of that so far."""
        gc.collect()
        self.free = gc.mem_free()
        self.low = min(self.low, self.free)

    def record(self, now):
        """Put a health record into the ring."""
        app = self._app
        self.look()
        unacked, segments = app.ring.held()
        errors = 0
        for sensor in app.sampler.sensors:
            errors += sensor.errors
        app.put(now, "health", KEYS, (
            self.free, self.low, app.wifi.rssi(), app.link.connects, app.wifi.lost, unacked,
            segments, app.ring.dropped, errors, app.ring.errors + app.ring.corrupt,
        ))  # fmt: skip
        print("heap low", self.low)

    def about(self):
        """Return the about payload of the device contract (bytes)."""
        app = self._app
        sensors = {}
        for sensor in app.sampler.sensors:
            sensors[sensor.name] = {
                "kind": sensor.kind,
                "period_s": sensor.period_ms / 1000,
                "units": dict(sensor.UNITS),
            }
        about = {
            "v": 1,
            "board": app.settings["board"],
            "firmware": VERSION,
            "micropython": ".".join([str(part) for part in sys.implementation[1][:3]]),
            "life": app.identity.life,
            "boot": app.boot,
            "reset": board.reset_reason(),
            "heap_free_b": self.free,
            "rssi_dbm": app.wifi.rssi(),
            "unhealthy_boots": app.identity.unhealthy,
            "sensors": sensors,
        }
        if self.failed:
            about["failed_sensors"] = self.failed
        text = json.dumps(about).encode()
        if len(text) > 1024:  # many sensors: the units are what can be looked up
            for entry in sensors.values():
                del entry["units"]
            text = json.dumps(about).encode()
        return text
