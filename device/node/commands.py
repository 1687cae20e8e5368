"""Commands from the gateway (`down/cmd`), each with an answer. Loaded when one comes.

    {"id": 1, "cmd": "read", "sensor": "air"}   ->   {"v": 1, "id": 1, "ok": true, "count": 1}
"""


import json


def run(app, data):
    """Do one command; return its answer."""
    name = data.get("cmd")
    answer = {"v": 1, "id": data.get("id"), "cmd": name, "ok": True}
    try:
        answer.update(_do(app, name, data) or {})
    except Exception as error:  # whatever a command is, it does not stop the board
        answer["ok"] = False
        answer["error"] = "%s %s" % (type(error).__name__, error)
    return answer


def _do(app, name, data):
    # One function: each name of another would stay in the heap for good.
    if name == "read":
        return {"count": app.sampler.read_now(data.get("sensor"))}
    if name == "period":
        return _period(app, data["sensor"], int(data["period_s"] * 1000))
    if name == "heap":
        app.look()
        print("heap", "low", app.low)
        return json.loads('{"free_b":%d,"low_b":%d}' % (app.free, app.low))
    if name == "identify":
        app.identify_until = app.now_ms() + int(data.get("for_s", 10) * 1000)
    elif name == "reboot":
        app.reboot_at = app.now_ms() + 500  # the answer goes first
    elif name == "about":
        app.uplink.again()
    else:
        raise ValueError("unknown command; known: about heap identify period read reboot")
    return None


def _period(app, name, period_ms):
    if not 50 <= period_ms <= 86400000:
        raise ValueError("period_s: want 0.05 to 86400")
    for sensor in app.sampler.sensors:
        if sensor.name == name:
            sensor.period_ms = period_ms
            sensor.due = 0
            app.uplink.again()
            return {"period_s": period_ms / 1000}
    raise ValueError("no such sensor")
