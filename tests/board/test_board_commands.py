"""`tidegate board`: from a bare board to readings at a gateway, and each failure in one line."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import ssl
import stat
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from gateway.credentials import parse, right
from tools import boards, deploy, provision
from tools.board_cli import board as command
from tools.board_link import BoardLink
from tools.virtual import VirtualBoard, control

Make = Callable[..., VirtualBoard]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the list of running virtual boards be this test's own."""
    folder = tmp_path / "boards"
    monkeypatch.setattr(control, "_folder", lambda: folder)


@pytest.fixture
def known(make: Make) -> Iterator[VirtualBoard]:
    """Give a bare virtual board that `list` shows."""
    board = make(pty=True, heap_kb=128, access_point=("lab", "secret-8"))
    with control.Control(board):
        yield board


def run(*words: str, code: int = 0, typed: str = "") -> Result:
    result = CliRunner().invoke(command, list(words), input=typed)
    assert result.exit_code == code, result.output + repr(result.exception)
    return result


def failed(*words: str) -> str:
    """Run what fails; give its one line."""
    result = run(*words, code=1)
    lines = [line for line in result.stderr.splitlines() if line.startswith("tidegate: ")]
    assert len(lines) == 1, result.output
    assert "Traceback" not in result.output
    return lines[0]


class Gateway:
    """As much of an MQTT server as one connection needs to say something and be believed."""

    def __init__(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.settimeout(20)
        self.port = int(self.listener.getsockname()[1])

    def readings(self) -> tuple[str, dict[str, object]]:
        """Take a connection until the first batch; give the client's id and the batch."""
        link, _ = self.listener.accept()
        link.settimeout(20)
        client = ""
        with link, link.makefile("rb") as stream:
            while True:
                kind = stream.read(1)[0]
                size = shift = 0
                while True:
                    byte = stream.read(1)[0]
                    size |= (byte & 0x7F) << shift
                    shift += 7
                    if byte < 0x80:
                        break
                body = stream.read(size)
                if kind >> 4 == 1:
                    client = body[12 : 12 + struct.unpack(">H", body[10:12])[0]].decode()
                    link.sendall(b"\x20\x02\x00\x00")
                elif kind >> 4 == 8:
                    link.sendall(b"\x90\x03" + body[:2] + b"\x00")
                elif kind >> 4 == 3:
                    end = 2 + struct.unpack(">H", body[:2])[0]
                    topic, rest = body[2:end].decode(), body[end:]
                    if kind & 6:
                        link.sendall(b"\x40\x02" + rest[:2])
                        rest = rest[2:]
                    if topic.endswith("/up"):
                        return client, json.loads(rest)


def test_from_a_bare_board_to_readings(known: VirtualBoard, tmp_path: Path) -> None:
    port = known.port
    known.world.set("air", temperature_c=17.5, humidity_pct=52.0)
    assert f"{port}  virtual, plays Virtual board" in run("list").output
    assert "the image is on the board" in run("image").output
    said = run("deploy").output
    assert "0 kept, 0 removed, /a runs" in said
    assert re.search(r"^1 of \d+  /a/node/\w+\.mpy  \d+ bytes$", said, re.MULTILINE), "progress"
    assert "provision" in said, "it says what it lacks"
    gateway = Gateway()
    credentials = tmp_path / "devices"
    said = run(
        "provision", "--device", "greenhouse-1", "--ssid", "lab", "--wifi-password", "secret-8",
        "--gateway", f"127.0.0.1:{gateway.port}", "--sensor", "dht22:IO4:air:1",
        "--credentials", str(credentials),
    ).output  # fmt: skip
    assert "greenhouse-1 life" in said
    try:
        client, batch = gateway.readings()
    except IndexError:
        print("\n".join(known.console.lines[-20:]))
        raise
    assert client == "greenhouse-1"
    recs = batch["recs"]
    assert isinstance(recs, list)
    assert recs[0][1:] == ["air", {"temperature_c": 17.5, "humidity_pct": 52.0}]
    again = run("deploy").output
    assert "0 files copied" in again
    said = run("info").output
    assert "device      greenhouse-1" in said
    assert "MicroPython 1." in said
    assert run("logs", "--for", "0.3").exit_code == 0
    with BoardLink(port) as link:
        written = json.loads(link.read("/config.json") or b"")
    assert written["board"] == "virtual"
    assert written["gateway"]["user"] == "greenhouse-1"
    assert written["gateway"]["password"] not in credentials.read_text()
    assert stat.S_IMODE(credentials.stat().st_mode) == 0o600
    known = parse(credentials.read_text(), "devices")  # the gateway reads it
    assert right(known["greenhouse-1"].hash, written["gateway"]["password"].encode())
    assert "files removed" in run("erase", "--yes").output
    with BoardLink(port) as link:
        assert link.tree("") == []


def test_image_leaves_nothing_of_before(known: VirtualBoard) -> None:
    with BoardLink(known.port) as link:
        link.write("old", b"old")
    run("image", "--port", known.port)
    with BoardLink(known.port) as link:
        assert link.tree("") == ["/boot.py"]


def test_provision_asks_for_what_is_not_given(known: VirtualBoard) -> None:
    run("provision", typed="shed\nlab\nsecret-8\n127.0.0.1:1883\nadc:IO34:soil\n")
    with BoardLink(known.port) as link:
        said = json.loads(link.read("/config.json") or b"")
    assert said["device"] == "shed"
    assert said["sensors"] == [{"kind": "adc", "name": "soil", "pin": 34}]
    assert said["button"] == {"pin": 0}


@pytest.mark.parametrize(
    ("sensor", "line"),
    [
        ("dht22:IO99:air", "IO99: no pin of Virtual board; it has IO0"),
        ("dht22:7:air", "pin = 7: belongs to the flash"),
        ("dht22:24:air", "pin = 24: Virtual board has no such GPIO"),
        ("dht22:4:the air", "sensors[0].name"),
        ("dht22:4:air:often", "often is no number"),
        ("dht23:4:air", "no such sensor; there are adc, bme280"),
        ("sht4x:scl=IO99,sda=21", "IO99: no pin of Virtual board"),
        ("hx711:dout=7,sck=5", "dout = 7: belongs to the flash"),
    ],
)
def test_wrong_sensor_is_told_before_the_board_is_touched(
    known: VirtualBoard, sensor: str, line: str
) -> None:
    words = ["--device", "x", "--ssid", "s", "--wifi-password", "secret-8", "--gateway", "h"]
    assert line in failed("provision", *words, "--sensor", sensor)
    with BoardLink(known.port) as link:
        assert link.read("/config.json") is None


def test_sensor_with_several_pins_and_keys() -> None:
    board = boards.load("virtual")
    assert provision.sensor_of("sht4x:scl=IO5,sda=4,address=69:air:10", board) == {
        "kind": "sht4x", "name": "air", "scl": 5, "sda": 4, "address": 69, "period_s": 10.0,
    }  # fmt: skip
    assert provision.sensor_of("adc:IO34,value=lux,scale=2", board) == {
        "kind": "adc", "name": "adc", "pin": 34, "value": "lux", "scale": 2,
    }  # fmt: skip
    assert provision.sensor_of("chip", board) == {"kind": "chip", "name": "chip"}


def test_sensor_that_cannot_be_used_is_told_and_the_password_is_kept(known: VirtualBoard) -> None:
    run("deploy")
    words = ["--device", "x", "--ssid", "lab", "--wifi-password", "secret-8", "--gateway", "h"]
    words += ["--gateway-password", "sesame", "--sensor", "chip::air"]
    with BoardLink(known.port) as link:  # as a chip without a temperature sensor
        link.write("/a/node/sensors/chip.py", b"def make(*_):\n    raise OSError('none here')\n")
    said = run("provision", *words).output
    assert "sensor air not usable: OSError none here" in said
    with BoardLink(known.port) as link:
        gateway = json.loads(link.read("/config.json") or b"")["gateway"]
    assert gateway == {"host": "h", "user": "x", "password": "sesame"}


def test_wifi_with_an_emoji_is_joined(make: Make) -> None:
    gateway = Gateway()
    board = make(pty=True, heap_kb=128, access_point=("casa 🏠", "pâté-de-🦆"))
    with gateway.listener, control.Control(board):
        run("deploy")
        run("provision", "--device", "x", "--ssid", "casa 🏠", "--wifi-password", "pâté-de-🦆",
            "--gateway", f"127.0.0.1:{gateway.port}", "--sensor", "chip:::1")  # fmt: skip
        assert gateway.readings()[0] == "x"


def test_authority_of_the_gateway_goes_to_the_board(known: VirtualBoard, tmp_path: Path) -> None:
    pem, der = tmp_path / "ca.crt", b"\x30\x82 as an authority's certificate begins"
    pem.write_text(ssl.DER_cert_to_PEM_cert(der))
    words = ["--device", "x", "--ssid", "lab", "--wifi-password", "secret-8", "--gateway", "h"]
    words += ["--sensor", "chip"]
    run("provision", *words, "--ca", str(pem))
    with BoardLink(known.port) as link:
        assert link.read("/ca.der") == der
        tls = json.loads(link.read("/config.json") or b"")["gateway"]["tls"]
    assert tls["ca"] == "/ca.der"
    assert len(tls["date"]) == 3
    assert tls["date"][0] >= 2026
    pem.write_text("no certificate")
    assert "want PEM or DER" in failed("provision", *words, "--ca", str(pem))
    pem.write_text(ssl.DER_cert_to_PEM_cert(der) * 2)
    line = failed("provision", *words, "--ca", str(pem))
    assert "holds 2 certificates, want the authority's alone" in line


def test_credential_of_a_device_is_replaced_not_doubled(tmp_path: Path) -> None:
    file = tmp_path / "devices"
    passwords = [provision.add_credential(file, name) for name in ("a", "b", "a")]
    assert len(set(passwords)) == 3
    known = parse(file.read_text(), "devices")
    assert sorted(known) == ["a", "b"]
    assert right(known["a"].hash, passwords[2].encode())
    assert not right(known["a"].hash, passwords[0].encode())
    with pytest.raises(provision.SettingsError):
        provision.add_credential(file, "no:colon")


def test_failures_are_one_line(known: VirtualBoard, tmp_path: Path) -> None:
    assert "no such port" in failed("info", "--port", str(tmp_path / "ttyUSB7"))
    assert "no board 'esp99'" in failed("deploy", "--board", "esp99")
    assert "not JSON" in failed("provision", "--file", __file__)
    assert "want on or off" in failed("do", "wifi", "perhaps")
    with BoardLink(known.port):
        assert "in use by another program" in failed("deploy")


@pytest.mark.parametrize("words", [("info",), ("deploy",), ("logs", "--for", "0.1")])
def test_what_is_no_serial_port_is_told(words: tuple[str, ...]) -> None:
    assert failed(*words, "--port", "/dev/null").startswith(
        "tidegate: /dev/null: not a serial port; ")


def test_without_a_board_it_says_so() -> None:
    line = failed("info")
    assert "say which with --port" in line


def test_do_moves_the_world(known: VirtualBoard) -> None:
    run("do", "set", "air", "temperature_c=3.5")
    assert known.world.get("air", "temperature_c") == 3.5
    run("do", "power-cut")
    assert known.pid is None
    run("do", "power-on")
    assert known.pid is not None


def test_do_set_names_the_sensors_and_quantities_that_there_are(known: VirtualBoard) -> None:
    known.hardware.fit([{"kind": "dht22", "name": "air", "pin": 4}, {"kind": "adc", "pin": 34}])
    assert failed("do", "set", "nowhere", "temperature_c=3").endswith(
        "no sensor 'nowhere'; there are: adc, air, chip")
    assert failed("do", "set", "air", "temp=3").endswith(
        "no quantity 'temp'; there are: temperature_c, humidity_pct")
    run("do", "set", "air", "temperature_c=3")
    run("do", "set", "chip", "chip_c=60")
    assert known.world.get("air", "temperature_c") == 3


@pytest.mark.parametrize("words", [
    ("info",), ("deploy",), ("erase", "--yes"), ("logs", "--for", "0.1"), ("shell",),
    ("provision", "--device", "x", "--ssid", "s", "--wifi-password", "password", "--gateway",
     "g", "--sensor", "dht22:4")])
def test_board_without_power_is_told(known: VirtualBoard, words: tuple[str, ...]) -> None:
    run("do", "power-cut")
    assert failed(*words).endswith("it has no power: tidegate board do power-on")


def test_virtual_command_plays_a_board_and_leaves_nothing(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "tools.board_cli", "virtual", "--board", "esp32-c3", "--quiet"],
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        assert child.stdout
        port = child.stdout.readline().split()[1]
        with BoardLink(port) as link:
            assert link.run("print(6 * 7)") == "42\n"
            assert link.info().platform == "linux"
        inside = [
            int(entry.name)
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and parent_of(entry) == child.pid
        ]
        assert len(inside) == 1
        child.send_signal(signal.SIGTERM)
        assert child.wait(timeout=10) == 0
        assert not Path(f"/proc/{inside[0]}").exists()
        assert not os.path.exists(port)  # noqa: PTH110
    finally:
        child.kill()
        child.wait()


def test_image_is_one_virtual_boards_at_a_time(make: Make, tmp_path: Path) -> None:
    first = make(name="mine")
    image = tmp_path / "mine.img"
    first.power_cut()  # without power it is the board's still
    assert failed("virtual", "--image", str(image)) == (
        f"tidegate: {image}: in use by another virtual board")
    first.stop()
    make(name="mine").stop()
    make(name="mine")


def test_image_file_is_looked_at_on_a_virtual_board_too(
    known: VirtualBoard, tmp_path: Path
) -> None:
    (tmp_path / "empty.bin").touch()
    boots = known.boots
    assert "empty.bin: the file is empty" in failed("image", "--file", str(tmp_path / "empty.bin"))
    assert "no.bin: No such file" in failed("image", "--file", str(tmp_path / "no.bin"))
    assert known.boots == boots
    (tmp_path / "some.bin").write_bytes(b"\xe9")
    run("image", "--file", str(tmp_path / "some.bin"))
    assert known.boots == boots + 1


def test_image_where_none_can_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    below = tmp_path / "file" / "x"
    assert failed("virtual", "--image", str(below)) == f"tidegate: {below}: File exists"
    assert "/proc/x/y: No such file" in failed("virtual", "--image", "/proc/x/y")


@pytest.mark.timeout(30)
@pytest.mark.parametrize("more", [[], ["--quiet"]])
def test_virtual_command_ends_where_the_interpreter_does(more: list[str]) -> None:
    line = failed("virtual", "--heap", "1", *more)
    assert "ended by itself" in line
    assert "is --heap 1 enough?" in line


def parent_of(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def test_failure_of_the_tools_is_an_error_of_the_command(
    known: VirtualBoard, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_words: object, **_more: object) -> None:
        raise deploy.DeployError("the flash may be worn out")

    monkeypatch.setattr(deploy, "put", fail)
    assert failed("deploy") == "tidegate: the flash may be worn out"


def test_heap_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    from tools import heap

    monkeypatch.setattr(heap, "LOOKS", 1)
    need = heap.measure(1)
    assert 5_000 < need.stand_ins < 20_000
    assert 20_000 < need.firmware < 80_000
    monkeypatch.setattr(heap, "LOOK_S", 1.0)
    assert not heap.runs_in(1, 20)
