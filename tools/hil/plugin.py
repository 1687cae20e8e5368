"""A pytest plugin: fixtures for tests of a chain, on virtual boards or on those of a hil.toml.

    from tools.hil.plugin import needs

    @needs("wifi", "power")
    def test_board_comes_back(board, world, upstream):
        world.set("air", temperature_c=-3)
        board.power_cut()
        ...

`bench` is the hil.toml of `--hil` (a virtual one without), `upstream` a Mosquitto, `gateway` the
gateway in front of it, `board` a board with all that `needs` names, reserved, with its firmware
running against the gateway, and `world` what its sensors feel. Where no board has it the test is
skipped, with the reason. A real board is on loan: this checkout's firmware, its own Wi-Fi, the
bench's gateway, and sensors that are fed over its console (tools/hil/loan.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tools.hil.bench import Bench
    from tools.hil.bench_boards import BenchBoard, Surroundings
    from tools.hil.carriers import Tidegate
    from tools.mosquitto import Mosquitto

needs = pytest.mark.needs


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add --hil."""
    parser.addoption("--hil", metavar="HIL.TOML", help="run on the boards of this bench")


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", "needs(*features): what the board of this test must have")


@pytest.fixture(scope="session")
def bench(pytestconfig: pytest.Config) -> Bench:
    """Give the boards of --hil, or virtual ones."""
    from tools.hil.run_cli import load_bench

    path = pytestconfig.getoption("--hil")
    return load_bench(Path(path) if path else None)


@pytest.fixture
def upstream(tmp_path: Path) -> Iterator[Mosquitto]:
    """Give a running Mosquitto."""
    from tools.mosquitto import Mosquitto

    with Mosquitto(tmp_path / "upstream") as broker:
        yield broker


@pytest.fixture
def gateway(tmp_path: Path, upstream: Mosquitto) -> Iterator[Tidegate]:
    """Give a running gateway whose upstream is `upstream`."""
    from tools.hil.carriers import Tidegate
    from tools.hil.scenario import GatewaySettings

    with Tidegate(tmp_path / "gateway", upstream.port, GatewaySettings()) as running:
        assert isinstance(running, Tidegate)
        yield running


@pytest.fixture
def board(request: pytest.FixtureRequest, bench: Bench, tmp_path: Path) -> Iterator[BenchBoard]:
    """Give a running board that has what the test needs."""
    from tools.hil.bench import NoBoardError
    from tools.hil.bench_boards import Virtual
    from tools.hil.real_board import Real
    from tools.proxy_thread import ProxyThread

    wanted = [feature for mark in request.node.iter_markers("needs") for feature in mark.args]
    try:
        with bench.take(wanted) as entry:
            gateway: Tidegate = request.getfixturevalue("gateway")
            with ProxyThread(gateway.port, host=bench.host) as link:
                found: BenchBoard
                if entry.virtual:
                    found = Virtual(entry, tmp_path / "boards", link.port, host=bench.host)
                else:
                    found = Real(entry, tmp_path / "boards", bench.host, link.port)
                try:
                    found.start()
                    yield found
                finally:
                    found.stop()
    except NoBoardError as error:
        pytest.skip(str(error))


@pytest.fixture
def world(board: BenchBoard) -> Surroundings:
    """Give what the sensors of `board` feel."""
    return board.world
