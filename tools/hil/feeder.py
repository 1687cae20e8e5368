"""What a real board's playback sensors feel, fed to them over its console.

`set` is that of a virtual board's World, so that a recording or a test does not ask which it has.

    to the board      feel 7 air 21.5 48.0      values in the order of their names
    from the board    felt 7

Rules:
- One line is out at a time: a board's console holds a few hundred bytes. It is sent again with the
  same number until it is answered, so that a board that was without power feels it after all.
- A sensor feels the present: what was set anew before it could be sent is passed over and counted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

AGAIN_S = 1.0
ANSWER = "felt "


class Feeder:
    """Feeds a board's sensors. values: by sensor, what it feels at first, by name and unit.

    type_in: writes to the board's console; OSError where there is nobody. Call `heard` with each
    console line.
    """

    def __init__(self, values: Mapping[str, Mapping[str, float]],
                 type_in: Callable[[bytes], None]) -> None:
        self.felt = self.passed_over = 0
        self._values = {name: dict(sorted(some.items())) for name, some in values.items()}
        self._type_in = type_in
        self._waiting = list(self._values)  # sensors with something new, in turn
        self._number, self._out = 0, ""
        self._changed = threading.Condition()
        self._over = False
        self._thread = threading.Thread(target=self._run, name="feeder", daemon=True)

    @property
    def sensors(self) -> Mapping[str, Sequence[str]]:
        """The names of each sensor's values, in the order of the board."""
        return {name: list(some) for name, some in self._values.items()}

    def set(self, place: str, **quantities: float) -> None:
        """Set quantities of a sensor; what it does not feel changes nothing."""
        with self._changed:
            some = self._values.get(place)
            if some is None or not quantities.keys() & some.keys():
                return
            some.update({name: value for name, value in quantities.items() if name in some})
            if place in self._waiting:
                self.passed_over += 1
            else:
                self._waiting.append(place)
            self._changed.notify_all()

    def heard(self, line: str) -> None:
        """Take a console line."""
        if not line.startswith(ANSWER):
            return
        with self._changed:
            if self._out and line[len(ANSWER):].strip() == str(self._number):
                self._out = ""
                self.felt += 1
                self._changed.notify_all()

    def start(self) -> None:
        """Feed from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Feed no more."""
        with self._changed:
            self._over = True
            self._changed.notify_all()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._over or self._out or self._waiting)
                if self._over:
                    return
                if not self._out:
                    self._out = self._next()
                number, line = self._number, self._out
            with suppress(OSError):
                self._type_in(line.encode())
            self._wait_for(number)

    def _next(self) -> str:
        """Return the next line, of the sensor that waits longest."""
        place = self._waiting.pop(0)
        told = " ".join(f"{value:.7g}" for value in self._values[place].values())
        self._number += 1
        return f"feel {self._number} {place} {told}\n"

    def _wait_for(self, number: int) -> None:
        """Wait for the answer to a line, or until it is time to send it again."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._over or not self._out or self._number != number, AGAIN_S)
