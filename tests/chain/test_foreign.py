"""Mosquitto's own clients against the gateway: any device, any dashboard."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tools.gateway_process import Gateway
from tools.judge import Producer, Subscriber, verdict_of_messages
from tools.mosquitto import Mosquitto, client_command
from tools.procs import die_with_us

Client = Callable[..., "subprocess.Popen[str]"]
ENDED_S = 10


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


@pytest.mark.parametrize(
    ("topic", "qos", "arrives_at"),
    [
        ("keep/a", 0, 0),
        ("keep/b", 1, 1),
        ("one/a", 0, 1),
        ("one/b", 1, 1),
        ("one/c", 2, 2),
        ("all/a", 0, 2),
        ("all/b", 1, 2),
        ("all/c", 2, 2),
    ],
)
def test_mosquitto_pub_arrives_at_the_qos_of_its_route(
    gateway: Gateway, judge: Subscriber, client: Client, topic: str, qos: int, arrives_at: int
) -> None:
    pub = client("mosquitto_pub", gateway.port, "-t", topic, "-q", str(qos), "-m", "23.5")
    assert pub.wait(ENDED_S) == 0
    arrival = judge.wait_for_message(topic, b"23.5")
    assert arrival.qos == arrives_at
    assert not arrival.retain


def test_mosquitto_pub_route_renames(gateway: Gateway, judge: Subscriber, client: Client) -> None:
    client("mosquitto_pub", gateway.port, "-t", "renamed/x", "-q", "1", "-m", "1")
    assert judge.wait_for_message("site/renamed/x", b"1").qos == 2


def test_mosquitto_pub_stays_in_the_house(
    gateway: Gateway, judge: Subscriber, local: Subscriber, client: Client
) -> None:
    client("mosquitto_pub", gateway.port, "-t", "house/x", "-q", "1", "-m", "private").wait(
        ENDED_S
    )
    client("mosquitto_pub", gateway.port, "-t", "all/after", "-q", "1", "-m", "public")
    local.wait_for_message("house/x", b"private")
    judge.wait_for_message("all/after", b"public")
    assert not [a for a in judge.arrivals if a.topic == "house/x"]


def test_mosquitto_pub_many_lines_keep_their_order(
    gateway: Gateway, judge: Subscriber, client: Client
) -> None:
    lines = [str(number) for number in range(500)]
    pub = client("mosquitto_pub", gateway.port, "-t", "all/lines", "-q", "1", "-l")
    pub.communicate("\n".join(lines) + "\n", timeout=ENDED_S)
    judge.wait_for_message("all/lines", lines[-1].encode())
    got = [a.payload.decode() for a in judge.arrivals if a.topic == "all/lines"]
    assert got == lines


def test_mosquitto_sub_sees_local_traffic(gateway: Gateway, client: Client) -> None:
    # on a terminal it writes line by line, so that its subscription can be waited for
    terminal, inner = os.openpty()
    client("mosquitto_sub", gateway.port, "-t", "local/+/x", "-q", "1", "-C", "2", "-d",
                 "-F", "got %t %q %p", stdout=inner)  # fmt: skip
    os.close(inner)
    with os.fdopen(terminal, errors="replace") as lines:
        assert any("received SUBACK" in line or "Subscribed" in line for line in lines)
        for qos in ("0", "1"):
            topic = f"local/{qos}/x"
            client("mosquitto_pub", gateway.port, "-t", topic, "-q", qos, "-m", qos).wait(ENDED_S)
        got = [next(line for line in lines if line.startswith("got ")).strip() for _ in "01"]
    assert got == ["got local/0/x 0 0", "got local/1/x 1 1"]


def test_mosquitto_sub_gets_retained(gateway: Gateway, client: Client) -> None:
    client("mosquitto_pub", gateway.port, "-t", "kept/x", "-q", "1", "-r", "-m", "last").wait(
        ENDED_S
    )
    sub = client("mosquitto_sub", gateway.port, "-t", "kept/#", "-C", "1", "-F", "%r %p")
    out, _ = sub.communicate(timeout=ENDED_S)
    assert out.strip() == "1 last"


def test_will_of_a_killed_client_arrives_locally_and_upstream(
    gateway: Gateway, judge: Subscriber, local: Subscriber, client: Client
) -> None:
    will = ("--will-topic", "wills/a", "--will-payload", "gone", "--will-qos", "1")
    pub = client("mosquitto_pub", gateway.port, "-t", "all/w", "-q", "1", "-l", "-i", "mortal",
                 *will)  # fmt: skip
    assert pub.stdin is not None
    pub.stdin.write("alive\n")
    pub.stdin.flush()
    judge.wait_for_message("all/w", b"alive")
    assert not [a for a in local.arrivals if a.topic == "wills/a"]
    pub.kill()
    assert local.wait_for_message("wills/a", b"gone").qos == 1
    assert judge.wait_for_message("wills/a", b"gone").qos == 2


def test_will_of_a_client_that_says_goodbye_is_not_sent(
    gateway: Gateway, judge: Subscriber, client: Client
) -> None:
    will = ("--will-topic", "wills/b", "--will-payload", "gone")
    pub = client("mosquitto_pub", gateway.port, "-t", "all/x", "-q", "1", "-m", "1", *will)
    assert pub.wait(ENDED_S) == 0
    client("mosquitto_pub", gateway.port, "-t", "all/y", "-q", "1", "-m", "2")
    judge.wait_for_message("all/y", b"2")
    assert not [a for a in judge.arrivals if a.topic == "wills/b"]


def test_gateway_killed_and_upstream_restarted_nothing_is_lost(
    gateway: Gateway, upstream: Mosquitto, judge: Subscriber
) -> None:
    with Producer(gateway.port) as producer:
        for number in range(300):
            producer.publish("all/kill", str(number).encode())
        producer.wait_for_acknowledgements()
        seen = producer.connections
        gateway.kill()
        upstream.stop()
        gateway.start()
        producer.wait_for(lambda: producer.connections > seen, 10, "a new connection")
        for number in range(300, 400):
            producer.publish("all/kill", str(number).encode())
        producer.wait_for_acknowledgements()
        upstream.start()
        judge.wait_for_message("all/kill", b"399", 20)
        verdict = verdict_of_messages([producer], judge)
    assert verdict.passed, verdict
    assert verdict.produced == 400
