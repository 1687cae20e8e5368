"""Commands from the gateway (`down/cmd`), each with an answer. Loaded when one comes.

    {"id": 1, "cmd": "read", "sensor": "air"}   ->   {"v": 1, "id": 1, "ok": true, "count": 1}
"""


def run(app, data):
    """Do one command; return its answer."""
    answer = {"v": 1, "id": data.get("id"), "cmd": data.get("cmd"), "ok": True}
    try:
        action = COMMANDS[data["cmd"]]
    except KeyError:
        answer["ok"] = False
        answer["error"] = "unknown command; known: " + " ".join(sorted(COMMANDS))
        return answer
    try:
        answer.update(action(app, data) or {})
    except (KeyError, TypeError, ValueError, OSError) as error:
        answer["ok"] = False
        answer["error"] = "%s %s" % (type(error).__name__, error)
    return answer


def _reboot(app, _data):
    app.reboot_at = app.now_ms() + 500  # the answer goes first


def _period(app, data):
    period_ms = int(data["period_s"] * 1000)
    if not 50 <= period_ms <= 86400000:
        raise ValueError("period_s: want 0.05 to 86400")
    for sensor in app.sampler.sensors:
        if sensor.name == data["sensor"]:
            sensor.period_ms = period_ms
            sensor.due = 0
            app.uplink.again()
            return {"period_s": period_ms / 1000}
    raise ValueError("no such sensor")


def _read(app, data):
    return {"count": app.sampler.read_now(data.get("sensor"))}


def _identify(app, data):
    app.identify_until = app.now_ms() + int(data.get("for_s", 10) * 1000)


def _heap(app, _data):
    app.look()
    print("heap low", app.low)
    return {"free_b": app.free, "low_b": app.low}


def _about(app, _data):
    app.uplink.again()


COMMANDS = {
    "reboot": _reboot,
    "period": _period,
    "read": _read,
    "identify": _identify,
    "heap": _heap,
    "about": _about,
}
