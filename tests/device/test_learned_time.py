"""What a board keeps of the time: UTC of its uptime zero, though acknowledgements come late."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from node.ring import Ring

LIFE, BOOT, ZERO_MS = bytes(4), 7, 1_764_000_000_000


class Store:
    """Keeps what was written last; counts."""

    def __init__(self) -> None:
        self.written = 0

    def names(self) -> list[str]:
        return []

    def write(self, name: str, data: bytes) -> None:
        self.written += 1

    def read(self, name: str, at: int, buf: bytearray) -> int:
        raise OSError


@pytest.fixture(scope="module", autouse=True)
def uplink() -> Iterator[ModuleType]:
    """node.uplink, without the library that its link would need."""
    with pytest.MonkeyPatch.context() as patch:
        umqtt = ModuleType("umqtt")
        umqtt.simple = ModuleType("umqtt.simple")  # type: ignore[attr-defined]
        umqtt.simple.MQTTClient = object  # type: ignore[attr-defined]
        for name, module in (("umqtt", umqtt), ("umqtt.simple", umqtt.simple)):
            patch.setitem(sys.modules, name, module)
        for name in ("node.link", "node.uplink"):
            patch.delitem(sys.modules, name, raising=False)
        made = importlib.import_module("node.uplink")
        patch.setattr(Board, "uplink_class", made.Uplink, raising=False)
        yield made


class Board:
    """A ring and the uplink that reads its acknowledgements."""

    uplink_class: Any

    def __init__(self) -> None:
        self.store = Store()
        self.ring = Ring(self.store, LIFE, BOOT, 2048, 65536)
        self.now_ms = 0
        nothing: Any = SimpleNamespace()
        self.uplink = self.uplink_class(nothing, self.ring, nothing, None, lambda: self.now_ms,
                                        b"", None, None)

    def ack(self, sent_ms: int, late_ms: int, *, t0: int | None = None, boot: int = BOOT,
            wrong_ms: int = 0) -> None:
        """An acknowledgement that was sent at an uptime and comes later."""
        self.now_ms = sent_ms + late_ms
        said: dict[str, Any] = {"v": 1, "life": LIFE.hex(), "boot": boot, "seq": 0,
                                "utc_ms": ZERO_MS + sent_ms + wrong_ms}
        if t0 is not None:
            said["t0"] = t0
        self.uplink.take((b"tidegate/d/down/ack", json.dumps(said).encode()), self.now_ms)

    def zero(self) -> int:
        kept: int = self.ring._boots[LIFE, BOOT][0]
        return kept


def test_zero_that_the_gateway_tells_is_kept_however_late_it_comes() -> None:
    board = Board()
    for number in range(20):
        board.ack(1000 * number, number * 1237 % 10_000, t0=ZERO_MS)
    assert board.zero() == ZERO_MS
    assert board.store.written == 1


@given(st.lists(st.integers(0, 10_000), min_size=1))
def test_zero_out_of_a_clock_is_the_one_of_the_quickest_acknowledgement(late: list[int]) -> None:
    board = Board()
    for number, late_ms in enumerate(late):
        board.ack(11_000 * number, late_ms)
    assert 0 <= ZERO_MS - min(late) - board.zero() <= 1000  # less is not worth a write


def test_zero_of_another_boot_is_not_taken_for_this_ones() -> None:
    board = Board()
    board.ack(5000, 100, t0=ZERO_MS - 10**9, boot=BOOT - 1)
    assert board.zero() == ZERO_MS - 100


@pytest.mark.parametrize("hours", [3, -3])
def test_step_of_the_gateways_clock_is_followed(hours: int) -> None:
    board = Board()
    wrong_ms = hours * 3_600_000
    board.ack(1000, 0, wrong_ms=wrong_ms)
    assert board.zero() == ZERO_MS + wrong_ms
    board.ack(2000, 50)
    assert board.zero() == ZERO_MS - 50
