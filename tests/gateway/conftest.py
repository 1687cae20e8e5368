"""A real Mosquitto as upstream for all tests here, and a gateway for each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from gpiozero import Device
from gpiozero.pins.mock import MockFactory

from tools.gateway_thread import GatewayThread, Make
from tools.judge import Subscriber
from tools.mosquitto import Mosquitto


@pytest.fixture(scope="session")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path_factory.mktemp("upstream"), persistence=False) as broker:
        yield broker


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Starts gateways that end with the test."""
    running: list[GatewayThread] = []

    def start(upstream_port: int, **settings: str) -> GatewayThread:
        folder = tmp_path / settings.get("name", "gw")
        gateway = GatewayThread(folder, upstream_port, **settings)
        gateway.start()
        running.append(gateway)
        return gateway

    yield start
    for gateway in running:
        gateway.stop()


@pytest.fixture
def gateway(make: Make, upstream: Mosquitto, request: pytest.FixtureRequest) -> GatewayThread:
    """A gateway with its defaults, connected."""
    made = make(upstream.port, name=f"gw-{abs(hash(request.node.name)) % 10**8}")
    made.wait_connected()
    return made


@pytest.fixture
def judge(upstream: Mosquitto) -> Iterator[Subscriber]:
    """An independent subscriber at the upstream."""
    with Subscriber(upstream.port, client_id=f"judge-{id(upstream)}") as subscriber:
        subscriber.arrivals.clear()
        yield subscriber


@pytest.fixture
def pins() -> Iterator[MockFactory]:
    """Pins of no board, for what works a Pi's."""
    before = Device.pin_factory
    Device.pin_factory = MockFactory()
    yield Device.pin_factory
    Device.pin_factory.reset()
    Device.pin_factory = before
