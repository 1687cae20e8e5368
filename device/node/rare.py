"""What hardly ever happens: going to sleep, a commanded reset, and forgetting the Wi-Fi."""

import json

from node import board, goodbye


def sleep(app):
    """Say goodbye and sleep deeply; the board starts anew when it wakes."""
    _leave(app)
    app.wifi.stop()
    print("sleep", app.sleep_ms, "ms")
    board.machine.deepsleep(app.sleep_ms)


def reset(app):
    """Say goodbye and start anew."""
    _leave(app)
    board.reset()


def _leave(app):
    ring = app.ring
    ring.commit()
    slot = ring._free_slot()
    if ring.held() == (0, 0) and slot is not None:
        try:
            ring._write_slot(slot)  # an empty one: all below was acknowledged, nothing goes again
        except OSError:
            ring.errors += 1
    goodbye.say(app.link)


def forget_wifi(path="/config.json"):
    """Take the Wi-Fi's name and password out of the settings, and restart."""
    with open(path) as f:
        settings = json.load(f)
    settings["wifi"] = {"ssid": "", "password": ""}
    with open(path, "w") as f:
        json.dump(settings, f)
    print("wifi forgotten")
    board.reset()
