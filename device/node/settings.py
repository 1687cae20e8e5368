"""/config.json: read, checked, and filled up with defaults.

Every error is one line that names the key, what is wrong and what would be right.
"""

import json

DEFAULTS = {
    "board": "generic",
    "qos": 0,
    "delivery": "gateway",
    "hold_ms": 1000,
    "tell": False,
    "led": None,
    "button": None,
    "sleep_s": 0,
    "health_s": 60,
    "watchdog_s": 60,
}
_NAME = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"


class SettingsError(ValueError):
    pass


def load(path="/config.json"):
    """Return the settings as a dict with every key there. Raise SettingsError."""
    try:
        with open(path) as f:
            text = f.read()
    except OSError:
        raise SettingsError("config.json: missing; write it with `tidegate board provision`")
    try:
        data = json.loads(text)
    except ValueError:
        raise SettingsError("config.json: not JSON")
    return check(data)


def check(data):
    """Return data with defaults. Raise SettingsError."""
    if not isinstance(data, dict):
        raise SettingsError("config.json: want an object")
    settings = dict(DEFAULTS)
    settings.update(data)
    _name(settings, "device", "")
    wifi = _sub(settings, "wifi", {})
    wifi.setdefault("ssid", "")
    wifi.setdefault("password", "")
    _text(wifi, "ssid", "wifi.", 32)
    _text(wifi, "password", "wifi.", 64)
    gateway = _sub(settings, "gateway", None)
    for key, value in (("port", 0), ("user", None), ("password", None), ("tls", False),
                       ("keepalive_s", 30), ("retry_max_s", 30)):  # fmt: skip
        gateway.setdefault(key, value)
    _text(gateway, "host", "gateway.", 253)
    if not gateway["host"]:
        raise SettingsError("config.json: gateway.host: empty, want a name or an address")
    if gateway["user"] is not None:
        _text(gateway, "user", "gateway.", 128)
        _text(gateway, "password", "gateway.", 128)
    if not isinstance(gateway["tls"], (bool, dict)):
        _bad("gateway.tls", gateway["tls"], 'true, false or {"ca": path}')
    _number(gateway, "port", "gateway.", 0, 65535)
    gateway["port"] = gateway["port"] or (8883 if gateway["tls"] else 1883)
    _number(gateway, "keepalive_s", "gateway.", 2, 600)
    _number(gateway, "retry_max_s", "gateway.", 1, 3600)
    ring = _sub(settings, "ring", {})
    ring.setdefault("ram_bytes", 2048)
    ring.setdefault("flash_bytes", 262144)
    _number(ring, "ram_bytes", "ring.", 1024, 4194304)
    _number(ring, "flash_bytes", "ring.", 8192, 1 << 30)
    _number(settings, "qos", "", 0, 1)
    _number(settings, "hold_ms", "", 0, 60000)
    _number(settings, "sleep_s", "", 0, 86400)
    _number(settings, "health_s", "", 0, 86400)
    _number(settings, "watchdog_s", "", 0, 3600)
    if settings["delivery"] not in ("gateway", "broker"):
        _bad("delivery", settings["delivery"], '"gateway" or "broker"')
    for key in ("led", "button"):
        if settings[key] is not None:
            _number(_sub(settings, key, None), "pin", key + ".", 0, 48)
    _sensors(settings)
    return settings


def _sensors(settings):
    sensors = settings.setdefault("sensors", [])
    if not isinstance(sensors, list):
        _bad("sensors", sensors, "a list")
    seen = []
    for i, sensor in enumerate(sensors):
        where = "sensors[%d]." % i
        if not isinstance(sensor, dict):
            _bad(where[:-1], sensor, "an object")
        _name(sensor, "kind", where)
        sensor.setdefault("name", sensor["kind"])
        _name(sensor, "name", where)
        if sensor["name"] in seen:
            _bad(where + "name", sensor["name"], "a name that no other sensor has")
        seen.append(sensor["name"])
        sensor.setdefault("period_s", 60)
        _number(sensor, "period_s", where, 0.05, 86400)


def _bad(key, value, want):
    raise SettingsError("config.json: %s: %s, want %s" % (key, json.dumps(value), want))


def _sub(parent, key, default):
    value = parent.setdefault(key, default)
    if not isinstance(value, dict):
        _bad(key, value, "an object")
    return value


def _text(parent, key, where, longest):
    value = parent.get(key)
    if not isinstance(value, str) or len(value) > longest:
        _bad(where + key, value, "text of at most %d characters" % longest)


def _name(parent, key, where):
    value = parent.get(key)
    if not isinstance(value, str) or not 1 <= len(value) <= 32 or value.strip(_NAME):
        _bad(where + key, value, "1 to 32 of a-z A-Z 0-9 _ -")
    for letter in value:
        if letter not in _NAME:
            _bad(where + key, value, "1 to 32 of a-z A-Z 0-9 _ -")


def _number(parent, key, where, low, high):
    value = parent.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        _bad(where + key, value, "a number from %s to %s" % (low, high))
