"""The virtual board behaves as a board: sensors, memory, resets, power."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from tools.virtual import NotSaidError, VirtualBoard, World
from tools.virtual.flash import FREE, Costs

Make = Callable[..., VirtualBoard]

SENSORS = """
import dht, onewire, ds18x20
from machine import Pin, ADC
air = dht.DHT22(Pin(4))
old = dht.DHT11(Pin(15))
bus = ds18x20.DS18X20(onewire.OneWire(Pin(5)))
soil = ADC(Pin(34), atten=ADC.ATTN_11DB)
def read():
    try:
        air.measure()
        print("air", round(air.temperature(), 1), round(air.humidity(), 1))
    except OSError as error:
        print("air", error)
    old.measure()
    print("old", old.temperature(), old.humidity())
    bus.convert_temp()
    print("bus", sorted(bus.read_temp(rom) for rom in bus.scan()))
    print("soil", soil.read_uv())
"""
FITTED = [
    {"kind": "dht22", "name": "air", "pin": 4},
    {"kind": "dht11", "name": "old", "pin": 15},
    {"kind": "ds18b20", "name": "one", "pin": 5},
    {"kind": "ds18b20", "name": "two", "pin": 5},
    {"kind": "ds18b20", "name": "three", "pin": 5},
    {"kind": "adc", "name": "soil", "pin": 34},
]


def test_sensors_feel_the_world(make: Make) -> None:
    world = World()
    world.set("air", temperature_c=-7.3, humidity_pct=91.2)
    world.set("old", temperature_c=19, humidity_pct=33)
    world.set("one", temperature_c=-10.0625)
    world.set("two", temperature_c=85.5)
    world.set("soil", voltage_v=1.234567)
    board = make(SENSORS + "read()", world=world, config={"sensors": FITTED})
    board.wait("^air -7.3 91.2$")
    board.wait("^old 19 33$")
    board.wait(r"^bus \[-10.0625, 21.0, 85.5\]$")
    board.wait("^soil 1234567$")


def test_world_moves_while_the_board_runs(make: Make) -> None:
    board = make(SENSORS, config={"sensors": FITTED})
    board.wait(">>>|MicroPython v")
    board.world.set("air", temperature_c=30.5)
    board.world.break_sensor("two")
    board.type_in(b"read()\r")
    board.wait("^air 30.5 45.0$")
    board.wait(r"^bus \[21.0, 21.0\]$")
    board.world.break_sensor("air")
    mark = board.console.mark()
    board.type_in(b"read()\r")
    board.wait("^air.*(110|ETIMEDOUT)", after=mark)


def test_recorded_csv_is_played(tmp_path: Path) -> None:
    recording = tmp_path / "office.csv"
    recording.write_text("time,t,h\n1,20.5,40\n2,,41\n3,22.5,42\n")
    world = World()
    world.play("air", recording, {"temperature_c": "t", "humidity_pct": "h"}, row_s=1e9)
    assert (world.get("air", "temperature_c"), world.get("air", "humidity_pct")) == (20.5, 40)
    world.play("air", recording, {"temperature_c": "t"}, row_s=1e-7)
    seen = {world.get("air", "temperature_c") for _ in range(2000)}
    assert seen == {20.5, 22.5}
    with pytest.raises(ValueError, match="'lux'"):
        world.play("air", recording, {"light_lux": "lux"})


def test_console_says_what_it_waited_for(make: Make) -> None:
    board = make("print('hello')")
    board.wait("^hello$")
    with pytest.raises(NotSaidError, match="hello"):
        board.wait("^never$", timeout_s=0.05)


def test_heap_is_as_small_as_asked(make: Make) -> None:
    board = make("b = [None] * 9000\nprint('fits')\nb = [None] * 15000", heap_kb=64)
    board.wait("^fits$")
    board.wait("MemoryError")
    assert 0 < board.heap_base < 8000


RESETS = """
import machine, esp32
rtc = machine.RTC()
print("cause", machine.reset_cause(), bytes(rtc.memory()))
nvs = esp32.NVS("test")
try:
    print("kept", nvs.get_i32("kept"))
except OSError as error:
    print("no kept", error.args[0])
try:
    nvs.get_i32("lost")
    print("lost is there")
except OSError:
    print("lost is not there")
nvs.set_i32("kept", 7)
nvs.set_blob("name", b"abc")
nvs.commit()
nvs.set_i32("lost", 1)
rtc.memory(b"held")
print("up")
"""


def after(board: VirtualBoard, action: Callable[[], object]) -> int:
    mark = board.console.mark()
    action()
    board.wait("^up$", after=mark)
    return mark


def test_reset_causes_and_what_outlives_them(make: Make) -> None:
    board = make(RESETS)
    board.wait("^cause 1 b''$")
    board.wait("^no kept -4354$")
    board.wait("^up$")
    mark = after(board, board.reset)
    board.wait("^cause 2 b'held'$", after=mark)
    board.wait("^kept 7$", after=mark)
    board.wait("^lost is there$", after=mark)  # written, and nothing took the power away
    mark = after(board, lambda: board.type_in(b"\x04"))
    board.wait("^cause 5 b'held'$", after=mark)
    mark = after(board, lambda: board.type_in(b"machine.deepsleep(30)\r"))
    board.wait("deep sleep 30 ms", after=mark)
    board.wait("^cause 4 b'held'$", after=mark)
    mark = after(board, lambda: board.type_in(b"w = machine.WDT(timeout=50)\r"))
    board.wait("watchdog reset", after=mark)
    board.wait("^cause 3 b'held'$", after=mark)
    board.power_cut()
    mark = after(board, board.power_on)
    board.wait("^cause 1 b''$", after=mark)
    board.wait("^kept 7$", after=mark)
    assert board.boots == 6


def test_what_was_not_committed_is_lost_with_the_power(make: Make) -> None:
    board = make(RESETS)
    board.wait("^up$")
    board.power_cut()
    board.power_on()
    board.wait("^kept 7$")
    board.wait("^lost is not there$", after=board.console.lines.index("kept 7"))


def test_watchdog_that_is_fed_lets_the_board_run(make: Make) -> None:
    board = make(
        "import machine, time\nw = machine.WDT(timeout=200)\n"
        "for n in range(60):\n    w.feed()\n    time.sleep_ms(10)\nprint('fed')\n"
    )
    board.wait("^fed$")
    assert not any("watchdog" in line for line in board.console.lines)
    board.wait("watchdog reset")


def test_button_calls_the_interrupt_handler(make: Make) -> None:
    board = make(
        "from machine import Pin\nb = Pin(0, Pin.IN, Pin.PULL_UP)\n"
        "def pressed(pin):\n    print('pressed', pin)\n"
        "b.irq(pressed, Pin.IRQ_FALLING)\nled = Pin(2, Pin.OUT, value=1)\n"
        "print('ready', b.value())\n"
        "while b.value():\n    pass\nprint('down')\n"
    )
    board.wait("^ready 1$")
    board.drive(0, 0)
    board.wait("^down$")
    board.wait(r"^pressed Pin\(0\)$")
    assert board.hardware.outputs[2] == 1


def test_frozen_umqtt_hides_the_one_in_lib(make: Make) -> None:
    board = make(
        "import umqtt.simple as u\nprint(u.__name__, hasattr(u, 'MQTTClient'))\n",
        files={"lib/umqtt/simple.py": b"raise ValueError('the wrong one')"},
    )
    board.wait("^umqtt.simple True$")


def test_files_survive_and_are_listed(make: Make) -> None:
    board = make(
        "import os\nos.mkdir('/d')\nwith open('/d/f', 'wb') as f:\n"
        "    f.write(bytes(range(256)) * 40)\nprint('written')\n",
        config={"device": "x"},
    )
    board.wait("^written$")
    board.power_cut()
    assert board.list_files()["d/f"] == 10240
    assert board.read_file("/d/f") == bytes(range(256)) * 40
    assert json.loads(board.read_file("config.json")) == {"device": "x"}


def test_wear_is_counted(make: Make) -> None:
    board = make(
        "for n in range(50):\n    with open('/f', 'a') as f:\n        f.write('x' * 40)\n"
        "print('end')\n"
    )
    before = sum(board.erases())
    board.wait("^end$")
    assert sum(board.erases()) - before >= 25
    assert len(board.erases()) == board.flash.blocks


STORE = """
import time
with open("/f", "w") as f:
    f.write("x" * 20000)
print("go")
began = time.ticks_ms()
for _ in range(20):
    with open("/f") as f:
        f.read(20000)
with open("/f", "w") as f:
    f.write("y" * 20000)
print("took", time.ticks_diff(time.ticks_ms(), began))
"""


@pytest.mark.parametrize("costs", [Costs(0.5, 50), FREE])
def test_reads_and_erases_are_counted_and_take_their_time(make: Make, costs: Costs) -> None:
    board = make(flash_costs=costs)
    board.wait("MicroPython v")
    board.power_cut()
    board.install({"main.py": STORE.encode()})
    before = board.flash.work()
    board.power_on()
    took_ms = int(board.wait(r"^took (\d+)")[1])
    work = board.flash.work() - before
    assert work.reads > 20 * 20000 // 4096  # at least one a block
    assert work.erases >= 10  # five blocks, twice
    if costs == FREE:
        assert work.ms(costs) == 0
    else:  # the first file is written, and the firmware loaded, before it is timed
        assert work.ms(costs) > took_ms > 1000
        assert work.ms(Costs(0.5, 0)) > took_ms / 3


# Each round writes a file whole, then renames it: what it was or what it becomes, never a mixture.
WRITER = """
import os
def held():
    try:
        with open("/data") as f:
            number, _, rest = f.read().partition(":")
    except OSError:
        return 0
    return int(number) if rest == number * 300 else -1
n = held()
print("data", n)
while True:
    n += 1
    with open("/data.new", "w") as f:
        f.write(str(n) + ":" + str(n) * 300)
    os.rename("/data.new", "/data")
    print("wrote", n)
"""


def test_power_cut_in_the_middle_of_a_write_leaves_a_mountable_flash(make: Make) -> None:
    chance = random.Random(20261123)
    board = make(WRITER, flash_costs=Costs(0.1, 5))  # three hundred erases, and forty starts
    mark = 0
    for _ in range(40):
        board.wait("^wrote", after=mark)
        board.cut_after(chance.randint(1, 40), chance.random())
        assert board.wait_off()
        said = [line.split()[1] for line in board.console.lines[mark:] if line[:5] == "wrote"]
        mark = board.console.mark()
        board.power_on()
        found = board.wait("^data (.*)$", after=mark)
        assert int(found[1]) - int(said[-1]) in (0, 1), "neither the old file nor the new one"
    assert not any("no file system" in line for line in board.console.lines)


def test_flash_that_is_erased_gets_a_file_system(make: Make) -> None:
    board = make("print('up')")
    board.wait("^up$")
    board.power_cut()
    board.flash.erase()
    mark = board.console.mark()
    board.power_on()
    board.wait("Performing initial setup", after=mark)
    board.wait("MicroPython v", after=mark)
    board.power_cut()
    assert list(board.list_files()) == ["boot.py"]


def test_flash_that_is_corrupt_is_told(make: Make) -> None:
    board = make("print('up')")
    board.wait("^up$")
    board.power_cut()
    with board.flash.image.open("r+b") as file:
        file.write(b"not a file system" * 1000)
    board.power_on()
    board.wait("holds no file system")


def test_settings_are_read_as_they_were_given(make: Make) -> None:
    main = "import json\nprint(json.load(open('/config.json'))['wifi']['ssid'] == '\\U0001f3e0')"
    make(main, config={"wifi": {"ssid": "🏠"}}).wait("^True$")
