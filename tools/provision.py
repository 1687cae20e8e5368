"""What makes a board this device and no other: its settings, written to its own flash.

They are asked for or taken from a file, checked by the firmware's own rules and against the
board's pins, and never kept in the repository: they hold the Wi-Fi's password.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import ssl
from collections.abc import Mapping
from datetime import date
from pathlib import Path
from typing import Any

from gateway import credentials
from gateway.errors import CredentialsError
from tools import firmware, pins
from tools.board_errors import LinkError
from tools.board_link import BoardLink
from tools.board_work import limit_s
from tools.boards import Board
from tools.deploy import wait_alive
from tools.pins import PIN_KEYS

DEVICE = re.compile(r"[a-zA-Z0-9_-]{1,32}")
SETTINGS = "/config.json"
AUTHORITIES = ("/ca.der", "/ca2.der")  # one that the settings name, and one to be written
NO_SENSORS = ("__init__", "i2c", "sensirion")  # what sensors share
KINDS = sorted(
    path.stem
    for path in (firmware.FOLDER / "node" / "sensors").glob("*.py")
    if path.stem not in NO_SENSORS
)


class SettingsError(LinkError):
    """Settings that a device cannot work with. One line."""


def _rules() -> Any:
    """Load the firmware's own check of its settings: it is plain Python."""
    path = firmware.FOLDER / "node" / "settings.py"
    spec = importlib.util.spec_from_file_location("tidegate_device_settings", path)
    if spec is None or spec.loader is None:
        raise SettingsError(f"{path}: cannot be read")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def content_of(settings: Mapping[str, Any]) -> bytes:
    """Write settings as the file on the board. Raises ValueError where they are no Unicode.

    As they are: of an escaped pair of surrogates MicroPython makes two broken characters.
    """
    return json.dumps(settings, ensure_ascii=False, separators=(",", ":")).encode()


def check(settings: Mapping[str, Any], board: Board) -> None:
    """Check settings as the firmware will, their pins and the Wi-Fi. Raises SettingsError."""
    try:
        found = _rules().check(json.loads(content_of(settings)))
    except ValueError as error:
        raise SettingsError(str(error)) from error
    password = found["wifi"]["password"]
    if 0 < len(password.encode()) < 8:
        raise SettingsError(f"config.json: wifi.password: {len(password)} characters, "
                            "want 8 to 63, or none where the Wi-Fi is open")
    fault = pins.fault(found, board)
    if fault:
        raise SettingsError(f"config.json: {fault}")


def pin_of(text: str, board: Board) -> int:
    """Give the GPIO for a pin's printed name or number. Raises SettingsError."""
    for name, pin in board.pins.items():
        if name.lower() == text.strip().lower():
            return pin
    if text.strip().isdigit():
        return int(text)
    raise SettingsError(f"{text}: no pin of {board.name}; it has {', '.join(board.pins)}")


def _words_of(text: str, board: Board) -> dict[str, Any]:
    """Read `4` or `scl=22,sda=21,address=69`: pins, and other keys of the sensor."""
    found: dict[str, Any] = {}
    for word in filter(None, text.split(",")):
        key, is_named, value = word.partition("=")
        if not is_named:
            key, value = "pin", word
        if key in PIN_KEYS:
            found[key] = pin_of(value, board)
            continue
        try:
            found[key] = json.loads(value)
        except ValueError:
            found[key] = value
    return found


def sensor_of(text: str, board: Board) -> dict[str, Any]:
    """Read `kind:pins[:name[:period_s]]`, as in `dht22:4:air:10`. Raises SettingsError."""
    kind, _, rest = text.partition(":")
    words, _, rest = rest.partition(":")
    name, _, period = rest.partition(":")
    found: dict[str, Any] = {"kind": kind.strip(), "name": name.strip() or kind.strip()}
    if kind.strip() not in KINDS:
        raise SettingsError(f"{text}: no such sensor; there are {', '.join(KINDS)}")
    found.update(_words_of(words, board))
    if period:
        try:
            found["period_s"] = float(period)
        except ValueError as error:
            raise SettingsError(f"{text}: {period} is no number of seconds") from error
    return found


def named(settings: Mapping[str, Any], board: Board) -> dict[str, Any]:
    """Give the settings with what the board file knows: its id, LED and button, pins by number.

    LED and button of the board are left out where a sensor is on their pin.
    """
    found: dict[str, Any] = {**settings, "board": board.id}
    sensors = []
    for sensor in settings.get("sensors", []):
        texts = {key: sensor[key] for key in PIN_KEYS if isinstance(sensor, dict)
                 and isinstance(sensor.get(key), str)}  # fmt: skip
        numbers = {key: pin_of(text, board) for key, text in texts.items()}
        sensors.append({**sensor, **numbers} if numbers else sensor)
    found["sensors"] = sensors
    taken = [sensor.get(key) for sensor in sensors if isinstance(sensor, dict) for key in PIN_KEYS]
    if board.led and "led" not in found and board.led[0] not in taken:
        pin, low = board.led
        found["led"] = {"pin": pin}
        if board.led_kind == "rgb":
            found["led"]["kind"] = "neopixel"
        elif low:
            found["led"]["invert"] = True
    if board.button is not None and "button" not in found and board.button not in taken:
        found["button"] = {"pin": board.button}
    return found


def load(path: Path) -> dict[str, Any]:
    """Read settings from a file. Raises SettingsError."""
    try:
        found = json.loads(path.read_text())
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise SettingsError(f"{path}: not JSON: {error}") from error
    if not isinstance(found, dict):
        raise SettingsError(f"{path}: want an object")
    return found


def add_credential(file: Path, device: str) -> str:
    """Make a password for a device; the file, readable by its owner only, keeps its scrypt hash.

    The file is the gateway's, as `tidegate device` writes it. A device that is there already gets
    a new password. Gives the password. Raises SettingsError.
    """
    if not DEVICE.fullmatch(device):
        raise SettingsError(f"{device!r}: a device is named with 1 to 32 of a-z A-Z 0-9 _ -")
    password = credentials.new_password()
    try:
        known = credentials.parse(file.read_text() if file.exists() else "", str(file))
        known[device] = credentials.Credential(
            device, credentials.hash_password(password.encode()), date.today().isoformat())
        work = file.with_name(file.name + ".new")
        with os.fdopen(os.open(work, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
            out.write(credentials.render(known))
        work.replace(file)
    except OSError as error:
        raise SettingsError(f"{file}: {error.strerror}") from error
    except CredentialsError as error:
        raise SettingsError(str(error)) from error
    return password


def authority(path: Path) -> bytes:
    """Read the certificate of an authority, PEM or DER; gives DER. Raises SettingsError."""
    try:
        data = path.read_bytes()
        count = data.count(b"-----BEGIN CERTIFICATE-----")
        if count > 1:
            raise SettingsError(
                f"{path}: holds {count} certificates, want the authority's alone")
        if data.lstrip().startswith(b"-----"):
            return ssl.PEM_cert_to_DER_cert(data.decode().strip())
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise SettingsError(f"{path}: not a certificate: {error}") from error
    if not data.startswith(b"\x30"):
        raise SettingsError(f"{path}: not a certificate, want PEM or DER")
    return data


def put(link: BoardLink, settings: Mapping[str, Any], ca: bytes | None = None) -> None:
    """Bring settings onto the board, in force at one moment; ca: the authority, DER.

    A new authority is written beside the one that the old settings name, and the renaming of the
    settings takes it into use. Raises LinkError.
    """
    unused: tuple[str, ...] = ()
    if ca is not None:
        raw = link.read(SETTINGS)
        named = [path for path in AUTHORITIES if raw is not None and path.encode() in raw]
        path = next((path for path in named if not link.differing({path: ca})), None)
        if path is None:
            path = next(path for path in AUTHORITIES if path not in named)
            link.replace(path, ca)
        today = date.today()
        tls = {"ca": path, "date": [today.year, today.month, today.day]}
        settings = {**settings, "gateway": {**settings["gateway"], "tls": tls}}
        unused = tuple(other for other in AUTHORITIES if other != path)
    content = content_of(settings)
    if link.differing({SETTINGS: content}):
        link.replace(SETTINGS, content)
    link.remove(unused)


def provision(
    port: str, settings: Mapping[str, Any], board: Board, ca: bytes | None = None
) -> str:
    """Write the settings to the board's flash and start it; gives its first words.

    ca: the gateway's authority, DER. Raises LinkError.
    """
    check(settings, board)
    with BoardLink(port) as link:
        put(link, settings, ca)
        if not link.has("/main.py"):
            return "the settings are on the board; firmware comes with `tidegate board deploy`"
        return wait_alive(link)


_WIPE = """
import os
n = 0
def w(d):
    global n
    for e in os.ilistdir(d or '/'):
        p = d + '/' + e[0]
        if e[1] == 0x4000:
            w(p)
            os.rmdir(p)
        else:
            os.remove(p)
            n += 1
            print(n)
w('')
try:
    import esp32
    s = esp32.NVS('tidegate')
    for k in ('boot', 'life', 'unhealthy', 'slot'):
        try:
            s.erase_key(k)
        except OSError:
            pass
    s.commit()
except ImportError:
    pass
print(n)
"""


def wipe(link: BoardLink) -> int:
    """Remove every file, and the node's non-volatile keys; gives the number of files."""
    return int(link.run(_WIPE, limit_s(files=2, writes=1)).split()[-1])
