"""A real board on loan to the bench: it keeps its Wi-Fi, and gets its own settings back.

Its settings and the records that it holds lie in /bench meanwhile, on its own flash, so that no
password is in a file of the bench. Each step may be repeated, and the power may go between any
two: a board that is neither here nor there has no settings, sends nothing and waits at its prompt.

    lend: config.json → bench/, then ring → bench/ (an empty one where it has none), then the
          bench's settings
    give back: the bench's settings and ring removed, then ring, then config.json home
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tools import boards, deploy, provision
from tools.board_errors import LinkError
from tools.board_link import BoardLink
from tools.board_work import limit_s

SETTINGS, KEPT = provision.SETTINGS, "/bench/config.json"
UNITS = {"c": "°C", "pct": "%", "hpa": "hPa", "ppm": "ppm", "v": "V", "lx": "lx", "db": "dB"}
MOST_SENSORS = 4
STEP_S = limit_s(files=4, writes=2)  # of silence: a ring in the way goes file by file, each told

_COMMON = """
import os
def there(p):
    try:
        os.stat(p)
        return True
    except OSError:
        return False
def wipe(p='/ring'):
    if there(p):
        for n in os.listdir(p):
            n = p + '/' + n
            wipe(n) if os.stat(n)[0] & 0x4000 else os.remove(n)
            print(n)
        os.rmdir(p)
"""
_LEND = _COMMON + """
if not there('/bench'):
    os.mkdir('/bench')
if not there('/bench/config.json'):
    os.rename('/config.json', '/bench/config.json')
if there('/bench/ring'):
    wipe()
elif there('/ring'):
    os.rename('/ring', '/bench/ring')
else:
    os.mkdir('/bench/ring')
"""
_GIVE_BACK = _COMMON + """
if there('/config.json.next'):  # what a lending that was cut off left
    os.remove('/config.json.next')
if there('/bench/config.json'):
    if there('/config.json'):
        os.remove('/config.json')
    if there('/bench/ring'):
        wipe()
        os.rename('/bench/ring', '/ring')
    os.rename('/bench/config.json', '/config.json')
    os.rmdir('/bench')
    print('given back')
"""


def unit_of(name: str) -> str:
    """Return the unit that a value's name ends with, "" for one that we do not know."""
    return UNITS.get(name.rpartition("_")[2], "")


def settings(own: Mapping[str, Any], device: str, host: str, port: int,
             sensors: Mapping[str, Sequence[str]], period_s: float) -> dict[str, Any]:
    """Return what a board on loan works with: its own Wi-Fi, the bench's gateway and sensors."""
    if len(sensors) > MOST_SENSORS:
        raise LinkError(f"{device}: {len(sensors)} places in the recording; a board has room for "
                        f"{MOST_SENSORS} sensors")
    return {
        "device": device, "board": own.get("board", "generic"), "wifi": own.get("wifi", {}),
        "hold_ms": 200, "tell": True,
        "gateway": {"host": host, "port": port, "keepalive_s": 5, "retry_max_s": 2},
        "sensors": [{"kind": "playback", "name": name, "period_s": period_s,
                     "values": {value: unit_of(value) for value in values}}
                    for name, values in sensors.items()],
    }


def lend(port: str, device: str, host: str, gateway_port: int,
         sensors: Mapping[str, Sequence[str]], *, board: str, period_s: float,
         firmware: bool) -> None:
    """Make the board at `port` the bench's; it stays at its prompt. Raises LinkError.

    firmware: whether to bring the one of this checkout onto it.
    """
    with BoardLink(port) as link:
        raw = link.read(KEPT) or link.read(SETTINGS)
        if raw is None:
            raise LinkError(f"{port}: {device} has no settings yet; `tidegate board provision "
                            f"--port {port}` gives it its Wi-Fi")
        try:
            own = json.loads(raw)
            wanted = settings(own, device, host, gateway_port, sensors, period_s)
        except (ValueError, AttributeError) as error:
            raise LinkError(f"{port}: {device}: its settings cannot be read: {error}") from error
        provision.check(wanted, boards.load(board))
        if firmware:
            march = deploy.check_board(link, boards.load(board))
            deploy.put(link, deploy.contents(link, [], march))
        link.run(_LEND, STEP_S)
        provision.put(link, wanted)


def give_back(port: str) -> bool:
    """Give a board its own settings back and start it; tells whether it was on loan."""
    with BoardLink(port) as link:
        lent = "given back" in link.run(_GIVE_BACK, STEP_S)
        link.restart()
        return lent
