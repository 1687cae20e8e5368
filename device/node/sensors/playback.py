"""Values that a test bench feeds over the console, in the place of a part; see docs/hil.md.

    {"kind": "playback", "name": "air", "values": {"temperature_c": "°C"}, "period_s": 1}

The line `feel 7 air 21.5` gives `air` its values, in the order of their names. The board answers
`felt 7`; the same number again is answered and not taken twice. There is a record at every such
line, and one of the last values every period_s.
"""

import select
import sys

from node.sensor import Sensor

_poll = select.poll()
_poll.register(sys.stdin, select.POLLIN)
_line = ""
_sensors = {}


class Playback(Sensor):
    EVENTS = True

    def open(self, settings, board):
        self.UNITS = tuple(sorted(settings["values"].items()))
        self._now = self._number = None
        self._new = False
        _sensors[self.name] = self

    def feel(self, number, values):
        if number != self._number:
            self._now = tuple([float(value) for value in values])
            self._number = number
            self._new = True
        print("felt", number)

    def poll(self, now_ms):
        _listen()
        if self._new:
            self._new = False
            return self._now
        return None

    def read(self):
        return self._now  # None, which is no record, until something was fed


def _listen():
    """Take the characters that have come, to the end of a line at most."""
    global _line
    while _poll.poll(0):
        letter = sys.stdin.read(1)
        if not letter:
            return
        if letter < " ":
            words, _line = _line.split(), ""
            if len(words) > 3 and words[0] == "feel" and words[2] in _sensors:
                sensor = _sensors[words[2]]
                if len(words) - 3 == len(sensor.UNITS):
                    sensor.feel(words[1], words[3:])
            return
        if len(_line) < 200:
            _line += letter


make = Playback
