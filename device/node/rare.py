"""What hardly ever happens: going to sleep, and forgetting the Wi-Fi."""

import json

from node import board


def sleep(app):
    """Say goodbye and sleep deeply; the board starts anew when it wakes."""
    app.ring.commit()
    app.link.disconnect()
    app.wifi.stop()
    print("sleep", app.sleep_ms, "ms")
    board.machine.deepsleep(app.sleep_ms)


def forget_wifi(path="/config.json"):
    """Take the Wi-Fi's name and password out of the settings, and restart."""
    with open(path) as f:
        settings = json.load(f)
    settings["wifi"] = {"ssid": "", "password": ""}
    with open(path, "w") as f:
        json.dump(settings, f)
    print("wifi forgotten")
    board.reset()
