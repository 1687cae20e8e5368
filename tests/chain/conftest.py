"""A chain of real parts on loopback: upstream Mosquitto, gateway, judge."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tools.gateway_process import Gateway
from tools.judge import Subscriber
from tools.mosquitto import Mosquitto, client_command
from tools.procs import die_with_us

Client = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="module")
def upstream(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mosquitto]:
    with Mosquitto(tmp_path_factory.mktemp("upstream")) as running:
        yield running


ROUTES = """
[[route]]
filter = "keep/#"
upgrade = 0
[[route]]
filter = "one/#"
upgrade = 1
[[route]]
filter = "renamed/#"
to = "site/{topic}"
upgrade = 2
[[route]]
filter = "house/#"
forward = false
[[route]]
filter = "#"
upgrade = 2
"""


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, upstream: Mosquitto) -> Iterator[Gateway]:
    folder = tmp_path_factory.mktemp("gateway")
    with Gateway(folder, upstream.port, settings=ROUTES) as running:
        yield running


@pytest.fixture(scope="module")
def judge(upstream: Mosquitto) -> Iterator[Subscriber]:
    with Subscriber(upstream.port) as running:
        yield running


@pytest.fixture(scope="module")
def local(gateway: Gateway) -> Iterator[Subscriber]:
    with Subscriber(gateway.port, client_id="dashboard") as running:
        yield running


@pytest.fixture
def client() -> Iterator[Client]:
    """Start mosquitto_pub or mosquitto_sub against a port; ended after the test."""
    with ExitStack() as stack:

        def start(
            program: str, port: int, *args: str, stdout: int = subprocess.PIPE
        ) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                die_with_us(client_command(program, port, *args)),
                stdin=subprocess.PIPE,
                stdout=stdout,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.callback(process.communicate)
            stack.callback(process.kill)
            return process

        yield start
