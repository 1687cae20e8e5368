"""What the board says of itself: `about` on connecting, and the health record."""

import json
import sys

from node import VERSION, board

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
_MOST = 900  # bytes, so that it fits the link's buffer with its topic


def health(app, now):
    """Put a health record into the ring, and say the heap's low-water mark."""
    app.look()
    ring = app.ring
    unacked, segments = ring.held()
    errors = 0
    for sensor in app.sampler.sensors:
        errors += sensor.errors
    app.put(now, "health", KEYS, (
        app.free, app.low, app.wifi.rssi(), app.link.connects, app.wifi.lost, unacked, segments,
        ring.dropped, errors, ring.errors + ring.corrupt,
    ))  # fmt: skip
    print("heap low", app.low)


def text(app):
    """Return the about payload of the device contract (bytes)."""
    sensors = {}
    for sensor in app.sampler.sensors:
        sensors[sensor.name] = {
            "kind": sensor.kind,
            "period_s": sensor.period_ms / 1000,
            "units": dict(sensor.UNITS),
        }
    about = {
        "v": 1,
        "board": app.board_name,
        "firmware": VERSION,
        "micropython": ".".join([str(part) for part in sys.implementation[1][:3]]),
        "life": app.identity.life,
        "boot": app.identity.boot,
        "reset": board.reset_reason(),
        "heap_free_b": app.free,
        "rssi_dbm": app.wifi.rssi(),
        "unhealthy_boots": app.identity.unhealthy,
        "sensors": sensors,
    }
    if app.safe:
        about["safe"] = True
    if app.failed:
        about["failed_sensors"] = app.failed
    data = json.dumps(about).encode()
    if len(data) > _MOST:  # many sensors: the units are what can be looked up
        for entry in sensors.values():
            del entry["units"]
        data = json.dumps(about).encode()
    if len(data) > _MOST:
        about["sensors"] = len(sensors)
        data = json.dumps(about).encode()
    return data
