"""What the board says of itself on connecting: `about`."""

import json
import sys

from node import VERSION, board


def write(app, out):
    """Write the about payload of the device contract into out; return its length.

    Piece by piece: the whole of it as objects and then as text is the heap's worst moment.
    """
    life, boot, unhealthy, _ = board.identity()
    at = _member(out, 0, b"{", "v", 1)
    keys = "board firmware micropython life boot reset heap_free_b rssi_dbm unhealthy_boots"
    for key, value in zip(keys.split(), (
        app.board_name, VERSION, ".".join([str(part) for part in sys.implementation[1][:3]]),
        life, boot, board.reset_reason(), app.free, app.wifi.rssi(), unhealthy,
    )):  # fmt: skip
        at = _member(out, at, b",", key, value)
    if app.safe:
        at = _member(out, at, b",", "safe", True)
    end = at
    try:
        if app.failed:
            end = at = _member(out, at, b",", "failed_sensors", app.failed)
    except ValueError:  # so many: the console has named them
        pass
    try:
        at = _put(out, at, b',"sensors":')
        before = b"{"
        for sensor in app.sampler.sensors:
            at = _member(out, at, before, sensor.name, {
                "kind": sensor.kind, "period_s": sensor.period_ms / 1000,
                "units": dict(sensor.UNITS),
            })  # fmt: skip
            before = b","
        return _put(out, at, b"}}" if before == b"," else b"{}}")
    except ValueError:  # more sensors than there is room for: they can be looked up
        return _put(out, end, b"}")


def _member(out, at, data, key, value):
    return _put(out, at, data + json.dumps(key).encode() + b":" + json.dumps(value).encode())


def _put(out, at, data):
    end = at + len(data)
    if end > len(out):
        raise ValueError
    out[at:end] = data
    return end
