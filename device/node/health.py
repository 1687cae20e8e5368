"""The health record: how the board itself is."""

from micropython import const

_KEYS = const("heap_free_b heap_low_b rssi_dbm connects wifi_lost unacked segments dropped "
              "sensor_errors flash_errors")  # fmt: skip


def put(app, now):
    """Put a health record into the ring, and say the heap's low-water mark."""
    app.look()
    ring = app.ring
    unacked, segments = ring.held()
    errors = 0
    for sensor in app.sampler.sensors:
        errors += sensor.errors
    app.put(now, "health", tuple(_KEYS.split()), (
        app.free, app.low, app.wifi.rssi(), app.link.connects, app.wifi.lost, unacked, segments,
        ring.dropped, errors, ring.errors + ring.corrupt,
    ))  # fmt: skip
    print("heap", "low", app.low)
