"""When was a device's uptime zero? The zero of each boot gives its records their time. Pure.

A batch says the uptime at which it was built. It arrives later than that, by what the radio and
TCP's repetitions took, so `arrival - uptime` is never before the zero, and by seconds behind it
now and then. Rules:

- The earliest zero seen of a (life, boot) holds. A crystal drifts, so with the uptime that passes
  it may move later again, by DRIFT at most: it stays right over a year, and is never too early
  while the crystal is no worse than that.
- No time goes back: a record is after every record of its boot that has a lower uptime, by 1 ms
  at least, until the better zero has caught up.
- Zeros are kept on our monotonic clock; the wall clock's offset to it is taken anew with each
  batch. A wall clock that is set, or steps, moves them: what it said before was provisional.
  Only a step back over SLIP_MS takes the times back with it.
- Over a restart they are kept as UTC, and move to our clock once a batch agrees to SLIP_MS. Until
  then a wall clock that is behind one, and that nobody has set (a machine without a clock has
  booted), is wrong and the zero is right; one that is ahead was set meanwhile.
- No batch is late by SLIP_MS, since its device has given the connection up by then. STRIKES of
  them one after the other say that the uptime itself has lost time: the zero begins anew.
"""

from __future__ import annotations

from msgspec import Struct

Key = tuple[str, str, int]  # device, life, boot
Saved = tuple[int, int, int, int]  # zero [UTC ms], known at [uptime ms], `Zero.last` (0, 0: none)

DRIFT = 100e-6
SLIP_MS = 15_000.0  # a device waits 10 s for its acknowledgement
STRIKES = 3
JITTER_MS = 5.0  # between reading two clocks
BOOTS_MOST = 8  # of a device, those heard last
DEVICES_MOST = 1024
MOST_MS = 2**53  # of an uptime; SQLite and JSON readers keep such integers whole
LAST_MS = 253_402_300_799_999  # the year 9999; datetime ends there


class Zero(Struct):
    """Of one boot.

    ms: on our monotonic clock, or UTC where it is `old`: from before a restart, and no batch has
    agreed yet. at_ms: the uptime at which it was known. heard_ms: the newest uptime. last: uptime
    and UTC [ms] of the newest record that got a time. strikes: batches in a row that were too
    late.
    """

    ms: float
    at_ms: float
    heard_ms: float
    last: tuple[float, float] | None = None
    old: bool = False
    strikes: int = 0


class Zeros:
    """The zeros of all devices. Monotonic and wall clock are passed in [ms]."""

    def __init__(self, saved: dict[Key, Saved]) -> None:
        self._devices: dict[str, dict[Key, Zero]] = {}  # who was heard last is last, also within
        self._mono_ms = 0.0
        self._offset_ms: float | None = None  # of the wall clock, while that can be trusted
        self._known_ms: float | None = None  # the last of it
        self._is_set = False
        for key, (zero_ms, at_ms, up_ms, ms) in saved.items():
            self._devices.setdefault(key[0], {})[key] = Zero(
                zero_ms, at_ms, at_ms, (up_ms, ms) if ms else None, old=True)

    def clock(self, mono_ms: float, utc_ms: float | None, *, is_set: bool = False) -> float:
        """Say what time it is; utc_ms: None where the wall clock is not to be trusted, is_set:
        whether it is known to be right. Returns by how much it has stepped since the last time."""
        self._mono_ms, self._is_set = mono_ms, is_set
        if utc_ms is None:
            self._offset_ms = None
            return 0.0
        before_ms, offset_ms = self._known_ms, utc_ms - mono_ms
        step_ms = 0.0 if before_ms is None else offset_ms - before_ms
        if before_ms is not None and abs(step_ms) < JITTER_MS:
            self._offset_ms = before_ms
            return 0.0
        self._offset_ms = self._known_ms = offset_ms
        if step_ms < -SLIP_MS:
            for zeros in self._devices.values():
                for zero in zeros.values():
                    if zero.last is not None and not zero.old:
                        zero.last = zero.last[0], zero.last[1] + step_ms
        return step_ms

    def heard(self, key: Key, now_ms: float) -> list[Key]:
        """Take a batch's uptime. Returns what is forgotten for it."""
        zeros = self._devices.pop(key[0], {})
        self._devices[key[0]] = zeros
        zero = zeros.pop(key, None)
        at_ms = self._mono_ms - now_ms
        if zero is None:
            zeros[key] = Zero(at_ms, now_ms, now_ms)
            return self._crowded(zeros)
        zeros[key] = zero
        zero.heard_ms = max(zero.heard_ms, now_ms)
        offset_ms = self._offset_ms
        if zero.old:
            if offset_ms is None:
                return []
            at_ms += offset_ms
        passed_ms = now_ms - zero.at_ms  # less than 0: an earlier batch came late
        moved_ms = zero.ms + DRIFT * max(0.0, passed_ms)
        at_ms += DRIFT * max(0.0, -passed_ms)
        late_ms = at_ms - moved_ms
        zero.strikes = zero.strikes + 1 if late_ms > SLIP_MS else 0
        if zero.strikes >= STRIKES or (zero.old and late_ms > SLIP_MS):
            moved_ms = at_ms
            zero.strikes = 0
        elif late_ms > SLIP_MS:
            return []  # it may have lain in a socket while the radio was away
        elif zero.old and late_ms < -SLIP_MS - 2 * DRIFT * abs(passed_ms):
            if not self._is_set:
                return []
            zero.last = None  # by a clock that was ahead
        zero.ms, zero.at_ms = min(moved_ms, at_ms), max(zero.at_ms, now_ms)
        if zero.old:
            assert offset_ms is not None
            zero.ms -= offset_ms
            zero.old = False
        return []

    def utc_ms(self, key: Key) -> float | None:
        """The zero as UTC, None where it is not known."""
        zero = self._devices.get(key[0], {}).get(key)
        if zero is None or zero.old:
            return None if zero is None else zero.ms
        return None if self._offset_ms is None else zero.ms + self._offset_ms

    def time_ms(self, key: Key, uptime_ms: float, t0_ms: float | None) -> float | None:
        """The UTC of a record, None where it cannot be known. t0_ms: what the device says."""
        zero_ms = self.utc_ms(key)
        if zero_ms is None:
            zero_ms = t0_ms
        if zero_ms is None or not 0 <= zero_ms + uptime_ms <= LAST_MS:
            return None
        zero, ms = self._devices.get(key[0], {}).get(key), zero_ms + uptime_ms
        if zero is None:
            return ms
        if zero.last is not None:
            last_up_ms, last_ms = zero.last
            if uptime_ms < last_up_ms:  # the device tells them in this order
                return min(last_ms, max(ms, last_ms - (last_up_ms - uptime_ms)))
            ms = max(ms, last_ms + (uptime_ms > last_up_ms))
        if uptime_ms <= zero.heard_ms:  # a later one is not to hold the others up
            zero.last = uptime_ms, ms
        return ms

    def saved(self, key: Key) -> Saved | None:
        """What has to outlive a restart, None where that is nothing yet."""
        zero_ms = self.utc_ms(key)
        if zero_ms is None:
            return None
        zero = self._devices[key[0]][key]
        up_ms, ms = zero.last or (0.0, 0.0)
        return round(zero_ms), round(zero.at_ms), round(up_ms), round(ms)

    def all_saved(self) -> dict[Key, Saved]:
        """The same of all that a step of the clock has moved."""
        keys = [key for zeros in self._devices.values() for key, zero in zeros.items()
                if not zero.old]
        found = {key: self.saved(key) for key in keys}
        return {key: saved for key, saved in found.items() if saved is not None}

    def _crowded(self, zeros: dict[Key, Zero]) -> list[Key]:
        """Forget who was heard longest ago, at the limits."""
        forgotten: list[Key] = []
        while len(zeros) > BOOTS_MOST:
            forgotten.append(next(iter(zeros)))
            del zeros[forgotten[-1]]
        while len(self._devices) > DEVICES_MOST:
            forgotten += self._devices.pop(next(iter(self._devices)))
        return forgotten
