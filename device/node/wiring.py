"""Settings in, a node out. Loaded for the start only."""

import gc
import time

from node import VERSION, board
from node.app import App
from node.backoff import Backoff
from node.clock import Uptime
from node.flash import Store
from node.link import Link
from node.ring import Ring
from node.sensor import Sampler
from node.uplink import Uplink
from node.wifi import Wifi

_UNHEALTHY = 5  # boots in a row, then the sensors are left out


def build(settings):
    """Return the App for settings, as node.settings gives them."""
    clock = Uptime(time.ticks_ms, time.ticks_diff)
    now_ms = clock.now
    life, boot, unhealthy, _ = board.identity()
    device = settings["device"]
    print("tidegate", VERSION, device, "life", life, "boot", boot)
    app = App()
    app.now_ms = now_ms
    app.board_name = settings["board"]
    app.hold_ms = settings["hold_ms"]
    app.health_ms = int(settings["health_s"] * 1000)
    app.watchdog_s = settings["watchdog_s"]
    app.sleep_ms = int(settings["sleep_s"] * 1000)
    app.safe = unhealthy >= _UNHEALTHY
    if app.safe:
        print("safe mode after", unhealthy, "boots that did not end well: no sensors")
        settings["sensors"] = []
        app.sleep_ms = 0
    if settings["led"] or settings["button"]:
        from node.panel import Panel

        app.panel = Panel(board.machine, settings["led"], settings["button"])
    bounds = settings["ring"]
    app.ring = Ring(
        Store("/ring"),
        bytes([int(life[i : i + 2], 16) for i in (0, 2, 4, 6)]),
        boot,
        bounds["ram_bytes"],
        bounds["flash_bytes"],
        app.told if settings["tell"] else None,
    )
    sensors = []
    for entry in settings["sensors"]:
        try:
            sensors.append(_sensor(entry))
        except Exception as error:  # one bad sensor must not take the others along
            print("sensor", entry["name"], "not usable:", type(error).__name__, error)
            app.failed.append(entry["name"])
    app.sampler = Sampler(sensors, app.put)
    wifi = settings["wifi"]
    app.wifi = Wifi(now_ms, wifi["ssid"], wifi["password"], device)
    gateway = settings["gateway"]
    prefix = ("tidegate/" + device + "/").encode()
    app.link = Link(
        now_ms,
        device.encode(),
        gateway["host"],
        gateway["port"],
        prefix,
        _bytes(gateway["user"]),
        _bytes(gateway["password"]),
        gateway["keepalive_s"],
        _tls(gateway["tls"]),
    )
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
    return app


def _sensor(entry):
    """Return the sensor that a settings entry asks for: `kind` is a module of node.sensors."""
    module = __import__("node.sensors." + entry["kind"], None, None, ("",))
    return module.make(entry, board)


def _tls(wanted):
    """Return an SSLContext for settings["gateway"]["tls"], or None."""
    if not wanted:
        return None
    import tls  # built in from 1.23 on; the ssl module is a layer on it

    gc.collect()  # mbedTLS wants its memory in large pieces
    context = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
    if wanted is True:
        context.verify_mode = tls.CERT_NONE  # encrypted, not authenticated: docs/firmware.md
    else:
        context.verify_mode = tls.CERT_REQUIRED
        with open(wanted["ca"], "rb") as f:
            context.load_verify_locations(f.read())
    return context


def _bytes(text):
    return None if text is None else text.encode()
