"""Wi-Fi as a station, without waiting: the only file that imports network."""

import network
from micropython import const

_TRY_MS = const(15000)  # a connect that takes longer is begun anew
_REST_MS = const(1000)  # after disconnect(): connecting in a transient state fails


class Wifi:
    """Keeps the station connected. now_ms: the uptime [ms]."""

    def __init__(self, now_ms, ssid, password, hostname):
        self.now_ms = now_ms
        self.ssid = ssid
        self.password = password
        try:
            network.hostname(hostname)
        except Exception:
            pass  # only a nicety
        self._wlan = network.WLAN(network.STA_IF)
        self._wlan.active(True)
        self._since = now_ms() - _REST_MS  # the first connect is at once
        self._resting = True
        self.lost = 0  # how often the connection went away
        self.up = False

    def step(self):
        """Go on as far as that is possible now."""
        wlan = self._wlan
        if not self.ssid:
            return
        now = self.now_ms()
        if wlan.isconnected():
            self.up = True
            self._since = now
            self._resting = False
            return
        if self.up:
            self.up = False
            self.lost += 1
            print("wifi", "lost")
        try:
            if self._resting:
                if now - self._since >= _REST_MS:
                    wlan.connect(self.ssid, self.password)
                    self._since, self._resting = now, False
            elif now - self._since > _TRY_MS:
                wlan.disconnect()
                self._since, self._resting = now, True
        except Exception as error:  # the ESP32 port raises RuntimeError as well
            print("wifi", type(error).__name__, error)
            self._since, self._resting = now, True
            try:
                wlan.disconnect()  # one that connects by itself, as after a soft reset, refuses
            except Exception:
                pass

    def rssi(self):
        """Return the signal strength [dBm], or None."""
        try:
            return self._wlan.status("rssi")
        except Exception:
            return None

    def stop(self):
        """Turn the radio off, before a deep sleep."""
        try:
            self._wlan.active(False)
        except Exception:
            pass
