"""From power-on to the loop, and out again without harm. node.wiring puts in what it runs."""

import gc
import sys
import time

from micropython import const

from node import board, once
from node.clock import Uptime

_UP = const(4)  # as in node.link
_IDLE_MS = const(50)
_HEALTHY_MS = const(600000)  # a board that runs this long is well, gateway or not
_AWAKE_MS = const(20000)  # with sleep_s, the longest that a board stays awake
_LOOK_MS = const(5000)
_LONG_MS = const(100)  # work with flash that took so long is all that a step does
_AGAIN_S = const(10)


def main():
    """Run the node until Ctrl-C; after an error say it and reset, so that it never just stops."""
    gc.threshold(2048)  # collect often: what stays then lies close together, and large pieces
    try:  # (the ring, a TLS record) still fit when the heap is small
        app = _node()
        gc.collect()
        if app:
            app.run()  # else to the prompt: there is nothing to do without settings
    except KeyboardInterrupt:
        _let_go()
        print("stopped; the prompt is yours")
    except Exception as error:
        sys.print_exception(error)
        print("restart in %d s; Ctrl-C to stop that" % _AGAIN_S)
        try:
            time.sleep(_AGAIN_S)
        except KeyboardInterrupt:
            _let_go()
            return
        board.reset()


def _let_go():
    """Relax the watchdog, also when Ctrl-C comes twice, as terminals send it."""
    while True:
        try:
            return board.relax_watchdog()
        except KeyboardInterrupt:
            pass


def _node():
    """Return the App, or None. A frame of its own: what main()'s held would stay."""
    try:
        settings = once("settings").load()
    except ValueError as error:
        print(error)
        return None
    return once("wiring").build(settings)


class App:
    """The node: now_ms, ring, sampler, wifi, link and uplink, and what runs them."""

    def __init__(self):
        self.now_ms = Uptime(time.ticks_ms, time.ticks_diff).now
        self.failed = []  # names of sensors that could not be used
        self.low = 1 << 29  # the least heap that was free after a collection [bytes]
        self.free = 0
        self.panel = None
        self.safe = False
        self._ill = True  # until this boot has done its work
        self.reboot_at = self.identify_until = self._hold_since = -1
        self._look_due = self._health_due = 0

    def put(self, uptime_ms, name, keys, values):
        """Take a reading into the ring."""
        self.ring.add(uptime_ms, name, keys, values)
        if self._hold_since < 0:
            self._hold_since = uptime_ms

    def told(self, life, boot, first, last):
        """Say on the console which records are safe now."""
        for seq in range(first, last + 1):
            print("rec %s %d %d" % (board.identity()[0], boot, seq))

    def command(self, data):
        return once("commands").run(self, data)

    def about(self, out):
        return once("about").write(self, out)

    def look(self):
        """Measure the heap: what is free after a collection, and the least of that so far."""
        gc.collect()
        self.free = gc.mem_free()
        self.low = min(self.low, self.free)

    def step(self):
        """Do what is due; return how long [ms] nothing else is."""
        now = self.now_ms()
        self.sampler.step(now)
        if now >= self._look_due:
            self._look_due = now + _LOOK_MS
            self.look()
        began = self.now_ms()
        if self.health_ms and now >= self._health_due:
            if self._health_due:
                try:
                    once("health").put(self, now)
                except MemoryError:  # it is only a report
                    print("heap too low for a health record")
            self._health_due = now + self.health_ms
        elif self._hold_since >= 0 and now - self._hold_since >= self.hold_ms:
            if self.ring.commit(False, True) or self.ring.volatile:
                self._hold_since = -1  # else there is more, for the next step
        if self.now_ms() - began > _LONG_MS:
            board.feed()
            return 0  # events first, and the network in the next step
        self.wifi.step()
        self.uplink.step(self.wifi.up)
        if self._ill and (self.uplink.acked or now > _HEALTHY_MS):
            self._ill = False
            once("memory").healthy(board)
        online = self.link.state == _UP
        if self.panel and self.panel.step(now, self.wifi.up, online, now < self.identify_until):
            once("rare").forget_wifi()
        if self.sleep_ms and self._may_sleep(now):
            once("rare").sleep(self)
        if 0 <= self.reboot_at <= now:
            once("rare").reset(self)
        board.feed()
        wait = self.sampler.next_ms(now, _IDLE_MS)
        if self._hold_since >= 0:
            wait = min(wait, max(0, self._hold_since + self.hold_ms - now))
        return wait

    def _may_sleep(self, now):
        """Return whether every sensor was read and all is acknowledged, or it takes too long."""
        for sensor in self.sampler.sensors:
            if sensor.ready >= 0 or not sensor.due:
                return now > _AWAKE_MS
        return self._hold_since < 0 and self.ring.held() == (0, 0) or now > _AWAKE_MS

    def run(self):
        """Run for ever."""
        board.watchdog(self.watchdog_s)
        while True:
            wait_ms = self.step()
            if wait_ms > 0 and not self.link.wire.wait(wait_ms):
                time.sleep_ms(wait_ms)
