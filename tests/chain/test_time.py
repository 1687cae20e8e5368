"""Times of a virtual board's records: its link stands still, its gateway's clock is set late."""

from __future__ import annotations

import json
import re
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from gateway import wallclock
from tools.gateway_thread import GatewayThread
from tools.judge import Subscriber
from tools.mosquitto import Mosquitto
from tools.ports import HOST
from tools.proxy_link import Fault
from tools.proxy_thread import ProxyThread
from tools.virtual.board import VirtualBoard
from tools.waiting import wait_until

BEHIND_S = 3 * 3600.0
STALL_S = 4.0


def test_times_are_right_over_a_stalled_link_and_a_clock_that_is_set_late(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong_s = [-BEHIND_S]
    monkeypatch.setattr(wallclock, "utc_ms", lambda: int((time.time() + wrong_s[0]) * 1000))
    told: dict[int, float] = {}  # seq → when the board had it on its flash

    def hear(line: str) -> None:
        found = re.match(r"rec \w+ 1 (\d+)$", line)
        if found:
            told[int(found[1])] = time.time()

    settings: dict[str, Any] = {
        "device": "dev", "wifi": {"ssid": "home", "password": "secret"}, "tell": True,
        "hold_ms": 100, "sensors": [{"kind": "adc", "name": "soil", "pin": 34, "period_s": 0.2}]}
    with Mosquitto(tmp_path / "up", persistence=False) as upstream, \
            Subscriber(upstream.port, ["tidegate/dev/data/#"]) as judge, \
            GatewayThread(tmp_path / "gw", upstream.port) as gateway, \
            ProxyThread(gateway.port) as link:
        settings["gateway"] = {"host": HOST, "port": link.port}

        def arrived(count: int) -> None:
            wait_until(lambda: len(judge.arrivals) >= count, 30, f"{count} records upstream")

        with VirtualBoard(image=tmp_path / "flash.img", files=Path("device"), config=settings,
                          heap_kb=96, on_line=hear):
            arrived(10)
            wrong_s[0] = 0.0
            before = len(judge.arrivals)
            arrived(before + 10)
            for _ in range(2):
                link.set_fault(Fault(blackhole=True))
                have = len(told)
                wait_until(lambda have=have: len(told) >= have + STALL_S / 0.2, 30)
                link.heal()
                arrived(len(told) + 5)
        steps = gateway.status()["counts"]["clock_steps"]
    assert steps == 1
    records = [json.loads(a.payload) for a in judge.arrivals]
    assert [r["seq"] for r in records] == list(range(1, len(records) + 1))
    times = [datetime.fromisoformat(r["time"]).timestamp() for r in records]
    assert times == sorted(times)
    late_s = [at_s - told[r["seq"]] for r, at_s in zip(records, times, strict=True)
              if r["seq"] in told]
    assert max(late_s[:8]) < 1 - BEHIND_S  # as the clock was
    assert max(late_s) < STALL_S / 3  # the quickest batch took less
    assert min(late_s[before + 5:]) > -STALL_S  # what it took to tell, on a busy machine
