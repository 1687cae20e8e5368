"""A real Mosquitto as upstream for all tests here, and a gateway for each."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

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


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What is slow runs only where it is asked for: `make service-test`."""
    if "slow" in config.getoption("markexpr"):
        return
    for item in items:
        if item.get_closest_marker("slow") and "tests/gateway/" in item.nodeid:
            item.add_marker(pytest.mark.skip(reason="takes long: make service-test"))
