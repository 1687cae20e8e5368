"""What the log says when the link to the upstream ends and when it is back; whom it blames."""

from __future__ import annotations

import asyncio
import logging
import re
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from gateway import wire
from gateway.flight import Limits
from gateway.links import UpstreamConfig
from gateway.upstream import Upstream
from tools.mosquitto import Mosquitto
from tools.ports import HOST, free_port
from tools.proxy_thread import ProxyThread

LOGGER = "tidegate.upstream"


class Ears:
    """Hears what the link tells the bridge."""

    def __init__(self) -> None:
        self.connected: asyncio.Queue[bool] = asyncio.Queue()
        self.lost: asyncio.Queue[bool] = asyncio.Queue()

    def upstream_connected(self, session_present: bool, limits: Limits) -> None:
        self.connected.put_nowait(session_present)

    def upstream_lost(self, by_broker: bool, code: int = 0) -> None:
        self.lost.put_nowait(by_broker)

    def upstream_acks(self, acks: list[wire.Ack]) -> None: ...
    def upstream_writable(self) -> None: ...
    def upstream_publishes(self, publishes: list[wire.Publish]) -> None: ...


@asynccontextmanager
async def linked(port: int, client_id: str) -> AsyncIterator[tuple[Ears, Upstream]]:
    """Keep a link up until the end of the block, in which all must be done in 40 s."""
    ears = Ears()
    link = Upstream(UpstreamConfig(f"mqtt://{HOST}:{port}", client_id=client_id), ears, None)
    running = asyncio.create_task(link.run())
    try:
        async with asyncio.timeout(40):
            yield ears, link
    finally:
        link.close()
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def told(caplog: pytest.LogCaptureFixture, pattern: str) -> logging.LogRecord:
    """Wait until a line of the log is as the pattern says."""
    while True:
        for record in caplog.records:
            if re.fullmatch(pattern, record.getMessage()):
                return record
        await asyncio.sleep(0)


@pytest.mark.parametrize(("reset", "reason"), [
    (True, "connection reset"), (False, "connection closed")])
def test_cut_link_is_told_without_blame_and_counts_as_closed_by_the_other_end(
        upstream: Mosquitto, caplog: pytest.LogCaptureFixture, reset: bool, reason: str) -> None:
    texts: list[str] = []

    async def run(proxy: ProxyThread) -> None:
        async with linked(proxy.port, f"cut-{reset}") as (ears, _):
            for level in (logging.WARNING, logging.DEBUG):  # cut again at once: the same outage
                await ears.connected.get()
                caplog.clear()
                proxy.cut(reset=reset)
                assert await ears.lost.get() is True
                line = await told(caplog, rf"upstream away reason='{reason}' try=. next_try_s=.+")
                assert line.levelno == level
                texts.extend(caplog.messages)

    with ProxyThread(upstream.port) as proxy, caplog.at_level(logging.DEBUG, LOGGER):
        asyncio.run(run(proxy))
    assert not any(blamed in text for text in texts for blamed in ("broker", "peer"))


def test_link_that_we_gave_up_is_no_close_by_the_other_end(
        upstream: Mosquitto, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        async with linked(upstream.port, "given-up") as (ears, link):
            await ears.connected.get()
            link.drop("no answer")
            assert await ears.lost.get() is False

    with caplog.at_level(logging.INFO, LOGGER):
        asyncio.run(run())
    assert "upstream dropped reason='no answer'" in caplog.messages


def test_peer_that_never_answers_is_one_line_too(
        caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.liveness.DEAD_S", 0.1)

    async def run(port: int) -> None:
        async with linked(port, "unheard"):
            await told(caplog, r"upstream away reason='nothing heard for .+' try=3 .+")

    with socket.create_server((HOST, 0)) as silent, caplog.at_level(logging.DEBUG, LOGGER):
        asyncio.run(run(silent.getsockname()[1]))
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == len({record.getMessage().split(" try=")[0] for record in warnings})
    assert "dropped" not in caplog.text


def test_outage_is_a_line_and_its_end_another_that_says_how_long_it_was(
        caplog: pytest.LogCaptureFixture, tmp_path_factory: pytest.TempPathFactory) -> None:
    port = free_port()
    broker = Mosquitto(tmp_path_factory.mktemp("late"), port=port, persistence=False)
    again = rf"upstream away reason='{HOST}:{port}: Connection refused' try=3 next_try_s=.+"

    async def run() -> None:
        async with linked(port, "early") as (ears, _):
            await told(caplog, again)
            await asyncio.to_thread(broker.start)
            await ears.connected.get()

    with caplog.at_level(logging.DEBUG, LOGGER):
        try:
            asyncio.run(run())
        finally:
            broker.stop()
    levels = [record.levelno for record in caplog.records if " away " in record.getMessage()]
    assert levels == [logging.WARNING, *[logging.DEBUG] * (len(levels) - 1)]
    (back,) = [record for record in caplog.records if record.levelno == logging.INFO]
    found = re.fullmatch(r"upstream connected host=.+ away_s=(\d+\.\d) tries=(\d+)",
                         back.getMessage())
    assert found is not None
    assert int(found[2]) == len(levels) >= 3
    assert float(found[1]) > 0


def test_first_connection_says_nothing_of_an_outage(
        upstream: Mosquitto, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        async with linked(upstream.port, "at-once") as (ears, _):
            await ears.connected.get()

    with caplog.at_level(logging.INFO, LOGGER):
        asyncio.run(run())
    assert "upstream connected" in caplog.text
    assert "away_s" not in caplog.text
