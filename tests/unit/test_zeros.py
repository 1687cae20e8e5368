"""gateway/zeros.py: times of records, over latency, drift, steps of the clock and restarts."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway import zeros
from gateway.devices import Devices, Taken
from gateway.zeros import Key, Saved, Zeros

UTC_MS = 1_800_000_000_000
HOUR_MS = 3_600_000.0
KEY = ("d", "l", 1)
PPM = 1e-6


def utc_of(text: str) -> float:
    return datetime.fromisoformat(text).timestamp() * 1000


class House:
    """A board whose crystal drifts, a network that is late, and a gateway whose wall clock is
    behind until it is set, slips back a little, and whose process and machine restart.

    The truth is `now_ms`, on both the board's and the gateway's side.
    """

    def __init__(self) -> None:
        self.now_ms = float(UTC_MS)
        self.wrong_ms = 0.0  # wall clock - truth
        self.began_ms = self.now_ms - 20_000  # truth at monotonic 0
        self.disk: dict[Key, Saved] = {}
        self.seen: dict[Key, int] = {}
        self.boot, self.seq = 0, 0
        self.pending: list[tuple[float, float]] = []  # uptime and truth of records not sent
        self.times: dict[int, list[float]] = {}
        self.restarted = False
        self.gateway = Devices({})
        self.reboot(0.0)

    def reboot(self, ppm: float) -> None:
        self.boot += 1
        self.seq, self.drift, self.pending = 0, ppm * PPM, []
        self.booted_ms = self.now_ms
        # How late a zero may be, and at which uptime that was known; and the last record's error.
        self.best: tuple[float, float] | None = None
        self.last: tuple[float, float] | None = None

    def uptime(self) -> float:
        return float(round((self.now_ms - self.booted_ms) * (1 + self.drift)))

    def read_sensor(self, passes_ms: float) -> None:
        self.now_ms += passes_ms
        self.pending.append((self.uptime(), self.now_ms))

    def long_time(self, days: float) -> None:
        self.now_ms += days * 24 * HOUR_MS

    def machine_restarts(self, behind_ms: float) -> None:
        """A Pi boots with an old time; a board that runs on tells it better."""
        if not self.clock_is_set():
            return
        self.wrong_ms = -behind_ms
        self.began_ms = self.now_ms - 20_000
        self.process_restarts()

    def process_restarts(self) -> None:
        self.gateway = Devices(dict(self.seen), dict(self.disk))
        self.restarted = True

    def clock_is_set(self) -> bool:
        """It steps while the gateway runs; by a little only once that has heard the board, since
        such a step cannot be told from a batch that is late."""
        if self.restarted and 0 < abs(self.wrong_ms) < zeros.SLIP_MS:
            return False
        self.wrong_ms = 0.0
        self.listen()
        return True

    def clock_slips(self, ms: float) -> None:
        if not self.wrong_ms and not self.restarted:
            self.wrong_ms = ms
            self.listen()

    def listen(self) -> None:
        """Any batch of another device tells the gateway of a step."""
        self.take("other", 1, 0.0, [[0.0, "s", {}]])

    def take(self, device: str, seq: int, uptime_ms: float, recs: list[list[Any]]) -> Taken:
        body = {"v": 1, "life": "l", "boot": self.boot if device == "d" else 1, "seq": seq,
                "low": seq, "now": uptime_ms, "recs": recs}
        taken = self.gateway.take(device, json.dumps(body).encode(),
                                  round(self.now_ms + self.wrong_ms),
                                  self.now_ms - self.began_ms)
        if taken.seq:
            self.seen[taken.key] = taken.seq
        for key, saved in taken.zeros.items():
            if saved is None:
                self.disk.pop(key, None)
            else:
                self.disk[key] = saved
        return taken

    def send(self, late_ms: float) -> None:
        if not self.pending:
            return
        uptime_ms, built_ms = self.uptime(), self.now_ms
        self.now_ms += late_ms
        recs, self.pending = self.pending, []
        taken = self.take("d", self.seq + 1, uptime_ms, [[up, "s", {}] for up, _ in recs])
        assert len(taken.records) == len(recs)
        self.seq += len(recs)
        if self.best is None:
            self.best = late_ms, uptime_ms
        passed_ms = 200 * PPM * (uptime_ms - self.best[1])
        best_ms = self.best[0] + passed_ms + 10
        if not self.restarted or -self.wrong_ms < zeros.SLIP_MS:
            self.restarted = False  # else the zero may stay as it is until the clock is set
            best_ms = min(late_ms, best_ms)
            self.best = best_ms, uptime_ms
        for (up_ms, true_ms), (_, payload) in zip(recs, taken.records, strict=True):
            ms = utc_of(json.loads(payload)["time"])
            self.times.setdefault(self.boot, []).append(ms)
            wall_ms = true_ms + self.wrong_ms
            lain_ms = 200 * PPM * (built_ms - true_ms) + 10
            # Behind a clock that is right, or one that runs behind and a board that knows better.
            assert ms >= min(wall_ms, true_ms) - lain_ms - 9000 * (self.wrong_ms > 0)
            at_most = max(wall_ms, true_ms) + best_ms + lain_ms
            if self.last is not None:  # behind one whose time was too late
                at_most = max(at_most, self.last[1] + 3)
            assert ms <= at_most
            self.last = up_ms, ms

    def read_and_send(self, passes_ms: float, late_ms: float) -> None:
        self.read_sensor(passes_ms)
        self.send(late_ms)

    def no_time_goes_back(self) -> None:
        for times in self.times.values():
            assert times == sorted(times)


def steps(ppm: float = 100) -> st.SearchStrategy[list[tuple[Any, ...]]]:
    """What may happen: names of the house's methods with what they are told."""
    ms = st.floats(0, 100_000)
    late = st.floats(0, 10_000)
    return st.lists(st.one_of(
        st.tuples(st.just("read_sensor"), ms), st.tuples(st.just("send"), late),
        *[st.tuples(st.just("read_and_send"), ms, late)] * 2,
        st.tuples(st.just("long_time"), st.floats(0, 400)),
        st.tuples(st.just("reboot"), st.floats(-ppm, ppm)),
        st.tuples(st.just("clock_slips"), st.floats(-9000, 9000)),
        st.tuples(st.just("machine_restarts"), st.sampled_from([0.0, 3 * HOUR_MS, 14 * HOUR_MS])),
        st.tuples(st.sampled_from(["process_restarts", "clock_is_set"]))), max_size=60)


@example([("read_sensor", 0), ("send", 11), ("long_time", 225), ("long_time", 400),
          ("machine_restarts", 3 * HOUR_MS), ("read_sensor", 0), ("send", 0)])
@given(steps())
@settings(max_examples=200)
def test_times_are_right_and_never_go_back(happens: list[tuple[Any, ...]]) -> None:
    house = House()
    for name, *told in happens:
        getattr(house, name)(*told)
        house.no_time_goes_back()


def times(devices: Devices, seq: int, uptimes: list[float], now: float | None,
          utc_ms: float | None, **more: Any) -> list[float | None]:
    """Take a batch of one boot; return what its records got."""
    mono_ms = more.pop("mono_ms", None)
    body = {"v": 1, "life": "l", "boot": 1, "seq": seq, "low": seq, **more,
            "recs": [[up, "s", {}] for up in uptimes]}
    if now is not None:
        body["now"] = now
    taken = devices.take("d", json.dumps(body).encode(),
                         None if utc_ms is None else round(utc_ms), mono_ms)
    found = [json.loads(payload)["time"] for _, payload in taken.records]
    return [None if text is None else round(utc_of(text) - UTC_MS) for text in found]


def test_batch_that_comes_late_has_the_times_of_one_that_does_not() -> None:
    devices = Devices({})
    assert times(devices, 1, [900], 1000, UTC_MS + 1000) == [900]
    assert times(devices, 2, [2000], 2100, UTC_MS + 2100 + 9000) == [2000]


def test_better_zero_takes_no_time_back() -> None:
    devices = Devices({})
    assert times(devices, 1, [900, 990], 1000, UTC_MS + 1000 + 9000) == [9900, 9990]
    assert times(devices, 3, [2000, 2000, 3000], 3100, UTC_MS + 3100) == [9991, 9991, 9992]
    assert times(devices, 6, [9000, 9995], 9996, UTC_MS + 9996) == [9993, 9995]


def test_record_that_the_device_tells_late_keeps_its_place() -> None:
    devices = Devices({})
    assert times(devices, 1, [900, 500, 950], 1000, UTC_MS + 1000) == [900, 500, 950]


@pytest.mark.parametrize("ppm", [-99, -20, 20, 99])
def test_zero_follows_a_crystal_for_a_year(ppm: int) -> None:
    devices = Devices({})
    for hour in range(1, 24 * 365, 7):
        true_ms = hour * HOUR_MS
        uptime_ms = round(true_ms * (1 + ppm * PPM))
        late_ms = hour * 7919 % 10_000 if hour % 3 else 0
        found = times(devices, hour, [uptime_ms], uptime_ms, UTC_MS + true_ms + late_ms,
                      low=hour)[0]
        assert found is not None
        assert -2 <= found - true_ms <= 14 * HOUR_MS * 200 * PPM + 2


def test_clock_that_is_three_hours_behind_and_then_set() -> None:
    devices, behind_ms = Devices({}), 3 * HOUR_MS
    assert times(devices, 1, [900], 1000, UTC_MS + 1000 - behind_ms, mono_ms=50_000) == [
        900 - behind_ms]
    assert times(devices, 2, [2000], 2000, UTC_MS + 2000 + 9000, mono_ms=60_000) == [2000]
    assert devices.zeros.utc_ms(KEY) == pytest.approx(UTC_MS, abs=1)


def test_clock_that_was_never_set_says_nothing_until_it_is() -> None:
    devices = Devices({})
    assert times(devices, 1, [900], 1000, None, mono_ms=50_000) == [None]
    assert devices.zeros.saved(KEY) is None
    assert times(devices, 2, [2000], 2000, UTC_MS + 2000 + 9000, mono_ms=60_000) == [2000]


def test_machine_that_boots_three_hours_behind_knows_the_time_of_a_board_that_runs_on() -> None:
    devices = Devices({})
    times(devices, 1, [900], 1000, UTC_MS + 1000, mono_ms=10**9)
    saved = devices.zeros.saved(KEY)
    assert saved is not None
    devices = Devices({KEY: 1}, {KEY: saved})
    behind_ms = 3 * HOUR_MS
    assert times(devices, 2, [61_000], 61_000, UTC_MS + 61_000 - behind_ms, mono_ms=9000) == [
        61_000]
    assert times(devices, 3, [62_000], 62_000, UTC_MS + 62_000, mono_ms=10_000) == [62_000]
    assert times(devices, 4, [63_000], 63_000, UTC_MS + 63_000 + HOUR_MS, mono_ms=11_000) == [
        63_000 + HOUR_MS]  # it holds on our clock again, and steps with it


def test_clock_that_was_ahead_is_believed_once_a_time_service_vouches_for_it() -> None:
    found = Zeros({KEY: (UTC_MS + int(HOUR_MS), 1000, 900, UTC_MS + int(HOUR_MS) + 900)})
    found.clock(5000, UTC_MS + 2000)
    found.heard(KEY, 2000)
    assert found.utc_ms(KEY) == UTC_MS + HOUR_MS
    found.clock(6000, UTC_MS + 3000, is_set=True)
    found.heard(KEY, 3000)
    assert found.utc_ms(KEY) == UTC_MS
    assert found.time_ms(KEY, 2500, None) == UTC_MS + 2500


def test_records_of_an_earlier_boot_have_the_zero_of_their_boot_or_what_the_device_says() -> None:
    devices = Devices({})
    times(devices, 1, [900], 1000, UTC_MS + 1000, mono_ms=0)
    assert times(devices, 2, [5000], None, UTC_MS + HOUR_MS, mono_ms=HOUR_MS - 1000,
                 t0=UTC_MS + 700) == [5000]
    assert times(Devices({}), 1, [5000], None, UTC_MS, t0=UTC_MS + 700) == [5700]
    assert times(Devices({}), 1, [5000], None, UTC_MS) == [None]


def test_step_back_takes_the_times_with_it_and_a_slip_does_not() -> None:
    devices = Devices({})
    assert times(devices, 1, [1000], 1000, UTC_MS + 1000 + HOUR_MS, mono_ms=0) == [1000 + HOUR_MS]
    assert times(devices, 2, [2000], 2000, UTC_MS + 2000, mono_ms=1000) == [2000]
    assert times(devices, 3, [3000], 3000, UTC_MS + 3000 - 5000, mono_ms=2000) == [2001]


def test_uptime_that_lost_time_is_believed_the_third_time() -> None:
    devices = Devices({})
    times(devices, 1, [1000], 1000, UTC_MS + 1000)
    lost_ms = 10 * zeros.SLIP_MS
    found = [times(devices, 1 + n, [1000 + n * 1000], 1000 + n * 1000,
                   UTC_MS + 1000 + n * 1000 + lost_ms)[0] for n in (1, 2, 3)]
    assert found == [2000, 3000, 4000 + lost_ms]


def test_boots_and_devices_are_limited_and_who_was_heard_last_stays() -> None:
    found = Zeros({})
    gone: list[Key] = []
    for boot in range(20):
        gone += found.heard(("d", "l", boot), 0)
        found.heard(("d", "l", 0), 0)
    assert len(gone) == 20 - zeros.BOOTS_MOST
    assert ("d", "l", 0) not in gone
    gone = []
    for number in range(zeros.DEVICES_MOST):
        gone += found.heard((f"d{number}", "l", 1), 0)
    assert len(gone) == zeros.BOOTS_MOST
    assert found.saved(("d", "l", 0)) is None


@pytest.mark.parametrize("now", [-1, 2**60, 1e300])
def test_uptime_that_cannot_be_is_as_good_as_none(now: float) -> None:
    assert times(Devices({}), 1, [1000], now, UTC_MS, t0=UTC_MS) == [1000]
