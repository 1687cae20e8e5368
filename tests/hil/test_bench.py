"""Benches: which boards there are, who has them, and what drives their power."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from tools.hil import loan
from tools.hil.bench import Bench, BenchError, Entry, NoBoardError
from tools.hil.cli import hil
from tools.hil.real_board import Real
from tools.procs import ChildError

HOLD = """
import sys
from tools.hil.bench import Bench, Entry
bench = Bench([Entry(name="x", port=sys.argv[1])])
with bench.take():
    print("mine", flush=True)
    sys.stdin.read()
"""


def bench_of(tmp_path: Path) -> Bench:
    port = tmp_path / "tty"
    port.touch()
    return Bench([Entry(name="x", port=str(port))])


def test_take_gives_what_is_needed() -> None:
    bench = Bench([Entry(name="a", virtual=True), Entry(name="b", virtual=True)])
    with bench.take(["wifi"]) as first, bench.take(["power"]) as second:
        assert {first.name, second.name} == {"a", "b"}
        with pytest.raises(NoBoardError, match="a is in use by this run; b is in use"), \
                bench.take():
            pass
    with bench.take() as again:
        assert again.name == "a"
    with pytest.raises(NoBoardError, match="a has no moon"), bench.take(["moon"]):
        pass


def test_board_that_is_not_plugged_in_is_told() -> None:
    bench = Bench([Entry(name="x", serial="no such serial number")])
    with pytest.raises(NoBoardError, match="x is not plugged in"), bench.take():
        pass


def test_reservation_ends_with_its_holder(tmp_path: Path) -> None:
    bench = bench_of(tmp_path)
    holder = subprocess.Popen([sys.executable, "-c", HOLD, bench.entries[0].port],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "mine\n"
        with pytest.raises(NoBoardError, match=f"x is reserved by process {holder.pid}"), \
                bench.take():
            pass
    finally:
        holder.kill()  # it cannot clean up
        holder.communicate()
    with bench.take() as entry:
        assert entry.name == "x"


@pytest.mark.parametrize(("text", "says"), [
    ("", "no \\[\\[board\\]\\]"),
    ('[[board]]\nname = "A b"\nvirtual = true', "a name of its own"),
    ('[[board]]\nname = "a"\nport = "p"\nserial = "s"', "one of serial and port"),
    ('[[board]]\nname = "a"\nvirtual = true\nkind = "toaster"', "no board 'toaster'"),
    ('[[board]]\nname = "a"\nvirtual = true\ncolour = 1', "colour"),
    ('host = "192.0.2.1"\n[[board]]\nname = "a"\nvirtual = true', "not an IPv4 address of this"),
    ('host = "0.0.0.0"\n[[board]]\nname = "a"\nvirtual = true', "one address of this machine"),
    ('host = "::1"\n[[board]]\nname = "a"\nvirtual = true', "not an IPv4 address"),
])
def test_bench_file_that_is_wrong_is_named(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "hil.toml").write_text(text)
    with pytest.raises(BenchError, match=says):
        Bench.load(tmp_path / "hil.toml")


def test_check_without_bench_says_what_is_needed() -> None:
    result = CliRunner().invoke(hil, ["check"])
    assert result.exit_code == 2
    assert "[[board]]" in result.output


def test_check_takes_a_virtual_bench() -> None:
    path = Path(__file__).parent / "virtual.toml"
    result = CliRunner().invoke(hil, ["check", str(path)])
    assert result.exit_code == 0
    assert "virtual-1, virtual-2" in result.output


def test_real_board_at_a_loopback_address_is_warned_of(tmp_path: Path) -> None:
    (tmp_path / "tty").touch()
    path = tmp_path / "hil.toml"
    path.write_text(f'[[board]]\nname = "x"\nport = "{tmp_path / "tty"}"\n')
    result = CliRunner().invoke(hil, ["check", str(path)])
    assert result.exit_code == 0
    assert "x: no real board reaches 127.0.0.1; name this machine's address" in result.output


def answer(master: int) -> None:
    """Start as a firmware does, at Ctrl-D."""
    while b"\x04" not in os.read(master, 100):
        pass
    os.write(master, b"tidegate 0.1.0 x life aa boot 1\r\n")


def test_real_board_console_and_relay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pty stands in for the USB port, gpiozero's mock pins for the relay."""
    monkeypatch.setattr(loan, "lend", lambda *args, **more: None)
    monkeypatch.setenv("GPIOZERO_PIN_FACTORY", "mock")
    from gpiozero import Device

    master, slave = os.openpty()
    entry = Entry(name="x", port=os.ttyname(slave), relay=17)
    assert "power" in entry.has
    board = Real(entry, tmp_path, "127.0.0.1", 1)
    try:
        threading.Thread(target=answer, args=(master,), daemon=True).start()
        board.start()
        pin = Device.pin_factory.pin(17)
        assert not pin.state  # at rest the board has power
        os.write(master, b"rec aa 1 7\r\nhello\r\n")
        board.console.wait("hello", 10)
        assert [record.seq for record in board.ledger.records()] == [7]
        board.power_cut()
        assert pin.state
        board.power_on()
        assert not pin.state
        board.power_cut()
    finally:
        os.close(master)
        os.close(slave)
        with pytest.raises(ChildError, match="x keeps the bench's settings until `tidegate hil"):
            board.stop()
    assert not pin.state
    assert "hello" in (tmp_path / "x.console.log").read_text()
    Device.pin_factory.reset()
