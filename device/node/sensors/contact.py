"""A door or window contact to ground: a record at every change, and every period_s.

    {"kind": "contact", "name": "door", "pin": 14, "debounce_ms": 50, "period_s": 3600}
"""

from node.sensor import Sensor


class Contact(Sensor):
    UNITS = (("open", "bool"),)
    EVENTS = True
    PULL_UP = True
    ACTIVE = 1  # the level at the pin that means true

    def open(self, settings, board):
        pin = board.machine.Pin
        self._pin = pin(settings["pin"], pin.IN, pin.PULL_UP if self.PULL_UP else None)
        self._debounce_ms = settings.get("debounce_ms", 50)
        self._said = self._seen = self._pin.value()
        self._since = 0

    def poll(self, now_ms):
        level = self._pin.value()
        if level != self._seen:
            self._seen = level
            self._since = now_ms
        if level != self._said and now_ms - self._since >= self._debounce_ms:
            self._said = level
            return self.read()
        return None

    def read(self):
        return (self._said == self.ACTIVE,)


make = Contact
