"""/config.json: read, checked, and filled up with defaults.

Every error is one line that names the key, what is wrong and what would be right.
"""

import json


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
    # Names in code stay in the heap for good, also when the code is gone: names and bounds of
    # settings are text here, and the text goes when all is checked.
    defaults = '{"board":"generic","delivery":"gateway","tell":false,"led":null,"button":null}'
    numbers = """\
qos 0 1 0 1
hold_ms 0 60000 1000 1
sleep_s 0 86400 0 0
health_s 0 86400 60 0
watchdog_s 1 3600 60 2
gateway.port 0 65535 0 1
gateway.keepalive_s 2 600 30 1
gateway.retry_max_s 1 3600 30 0
ring.ram_bytes 1024 4194304 2048 1
ring.flash_bytes 8192 1073741824 262144 1"""  # key, from, to, default, kind as in _number()
    if not isinstance(data, dict):
        raise SettingsError("config.json: want an object")
    settings = json.loads(defaults)
    settings.update(data)
    _name(settings, "device", "")
    wifi = _sub(settings, "wifi", {})
    for key, size in (("ssid", 32), ("password", 64)):
        wifi.setdefault(key, "")
        _text(wifi, key, "wifi", size)
    gateway = _sub(settings, "gateway", None)
    gateway.setdefault("tls", False)
    _text(gateway, "host", "gateway", 253)
    if not gateway["host"]:
        raise SettingsError("config.json: gateway.host: empty, want a name or an address")
    for key in ("user", "password"):
        if gateway.setdefault(key, None) is not None or gateway["user"] is not None:
            _text(gateway, key, "gateway", 128)
    if not isinstance(gateway["tls"], (bool, dict)):
        _bad("gateway.tls", gateway["tls"], 'true, false or {"ca": path}')
    if isinstance(gateway["tls"], dict):
        _text(gateway["tls"], "ca", "gateway.tls", 64)
    _sub(settings, "ring", {})
    for line in numbers.split("\n"):
        name, low, high, value, kind = line.split(" ")
        section, _, key = name.rpartition(".")
        where = settings[section] if section else settings
        where.setdefault(key, int(value))
        _number(where, key, section, int(low), int(high), int(kind))
    gateway["port"] = gateway["port"] or (8883 if gateway["tls"] else 1883)
    if settings["delivery"] not in ("gateway", "broker"):
        _bad("delivery", settings["delivery"], '"gateway" or "broker"')
    for key in ("led", "button"):
        if settings[key] is not None:
            _number(_sub(settings, key, None), "pin", key, 0, 48, 1)
    _sensors(settings)
    return settings


def _sensors(settings):
    sensors = settings.setdefault("sensors", [])
    if not isinstance(sensors, list):
        _bad("sensors", sensors, "a list")
    seen = []
    for i, sensor in enumerate(sensors):
        name = "sensors[%d]" % i
        if not isinstance(sensor, dict):
            _bad(name, sensor, "an object")
        _name(sensor, "kind", name)
        sensor.setdefault("name", sensor["kind"])
        _name(sensor, "name", name)
        if sensor["name"] in seen:
            _bad(_path(name, "name"), sensor["name"], "a name that no other sensor has")
        seen.append(sensor["name"])
        sensor.setdefault("period_s", 60)
        _number(sensor, "period_s", name, 0.05, 86400)


def _path(name, key):
    return "%s.%s" % (name, key) if name else key


def _bad(name, value, text):
    raise SettingsError("config.json: %s: %s, want %s" % (name, json.dumps(value), text))


def _sub(data, key, value):
    value = data.setdefault(key, value)
    if not isinstance(value, dict):
        _bad(key, value, "an object")
    return value


def _text(data, key, name, size):
    value = data.get(key)
    if not isinstance(value, str) or len(value.encode()) > size:
        _bad(_path(name, key), value, "text of at most %d bytes" % size)


def _name(data, key, name):
    value = data.get(key)
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-"
    good = isinstance(value, str) and 1 <= len(value) <= 32
    if not good or any(letter not in letters for letter in value):
        _bad(_path(name, key), value, "1 to 32 of a-z A-Z 0-9 _ -")


def _number(data, key, name, first, last, kind=0):
    # kind 1: a whole number, 2.0 is none; kind 2: 0 as well
    value = data.get(key)
    good = isinstance(value, int if kind == 1 else (int, float)) and not isinstance(value, bool)
    if not good or not (first <= value <= last or kind == 2 and value == 0):
        text = ("a number", "a whole number", "0 or a number")[kind]
        _bad(_path(name, key), value, "%s from %s to %s" % (text, first, last))
