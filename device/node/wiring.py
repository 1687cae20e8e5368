"""Settings in, a node out. Loaded for the start only."""

import gc

from micropython import const

from node import VERSION, board, once

_UNHEALTHY = const(5)  # boots in a row, then the sensors are left out


def build(settings):
    """Return the App for settings, as node.settings gives them.

    What needs a large piece of heap is made first, while there are large pieces: each module is
    imported where it is used, and a setting that is used is let go.
    """
    life, boot, unhealthy, _ = board.identity()
    device = settings["device"]

    from node.app import App

    app = App()
    app.ring = _ring(settings.pop("ring"), life, boot, app.told if settings["tell"] else None)
    now_ms = app.now_ms
    gateway = settings.pop("gateway")
    prefix = ("tidegate/%s/" % device).encode()
    app.link = _link(now_ms, device.encode(), gateway, prefix)
    gc.collect()

    from node.clock import Backoff
    from node.uplink import Uplink

    app.uplink = Uplink(
        app.link,
        app.ring,
        Backoff(cap_ms=gateway["retry_max_s"] * 1000),
        board.rand,
        now_ms,
        prefix,
        app.about,
        app.command,
        settings["qos"],
        settings["delivery"] == "broker",
    )
    del gateway
    app.board_name = settings["board"]
    app.hold_ms = settings["hold_ms"]
    app.health_ms = int(settings["health_s"] * 1000)
    app.watchdog_s = settings["watchdog_s"]
    app.sleep_ms = int(settings["sleep_s"] * 1000)

    from node.wifi import Wifi

    wifi = settings.pop("wifi")
    app.wifi = Wifi(now_ms, wifi["ssid"], wifi["password"], device)

    from node.sensor import Sampler

    app.safe = unhealthy >= _UNHEALTHY
    if app.safe:
        print("safe mode after", unhealthy, "boots that did not end well: no sensors")
        settings["sensors"] = []
        app.sleep_ms = 0
    if settings["led"] or settings["button"]:
        try:
            from node.panel import Panel

            app.panel = Panel(board.machine, settings["led"], settings["button"])
        except Exception as error:
            print("LED or button not usable:", type(error).__name__, error)

    sensors = []
    for entry in settings["sensors"]:
        gc.collect()
        try:
            module = __import__("node.sensors." + entry["kind"], None, None, ("",))
            sensors.append(module.make(entry, board))
        except Exception as error:  # one bad sensor must not take the others along
            print("sensor", entry["name"], "not usable:", type(error).__name__, error)
            app.failed.append(entry["name"])
    app.sampler = Sampler(sensors, app.put)
    print("tidegate", VERSION, device, "life", life, "boot", boot)  # last: now it is all there
    return app


def _ring(data, life, boot, told):
    from node.flash import Store
    from node.ring import Ring

    life = bytes([int(life[i : i + 2], 16) for i in (0, 2, 4, 6)])
    return Ring(Store("/ring"), life, boot, data["ram_bytes"], data["flash_bytes"], told)


def _link(now_ms, name, gateway, prefix):
    user, password, tls = gateway["user"], gateway["password"], gateway["tls"]
    if tls:
        try:
            tls = once("secure").context(tls)
        except Exception as error:  # readings go to the ring, and nothing out in plain text
            tls = "TLS not usable: %s %s" % (type(error).__name__, error)

    return once("linking").make(
        now_ms,
        name,
        gateway["host"],
        gateway["port"],
        prefix,
        None if user is None else user.encode(),
        None if password is None else password.encode(),
        gateway["keepalive_s"],
        tls or None,
    )
