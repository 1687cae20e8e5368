# The network module of the ESP32 port: a station in front of an access point that can vanish.
from _host import ask

STA_IF, AP_IF = 0, 1
STAT_IDLE, STAT_CONNECTING, STAT_GOT_IP = 1000, 1001, 1010
STAT_BEACON_TIMEOUT, STAT_NO_AP_FOUND, STAT_WRONG_PASSWORD = 200, 201, 202
STAT_ASSOC_FAIL, STAT_HANDSHAKE_TIMEOUT = 203, 204
AUTH_OPEN, AUTH_WPA2_PSK = 0, 3


def hostname(name=None):
    return ask("wifi", "hostname", name)


def country(code=None):
    return "XX"


class WLAN:
    IF_STA, IF_AP = 0, 1
    PM_NONE, PM_PERFORMANCE, PM_POWERSAVE = 0, 1, 2

    def __init__(self, interface=0):
        self.ap = interface != 0

    def active(self, on=None):
        if self.ap:
            return False
        return ask("wifi", "active", on)

    def connect(self, ssid=None, key=None, *, bssid=None):
        ask("wifi", "connect", [ssid, key])

    def disconnect(self):
        ask("wifi", "disconnect", None)

    def isconnected(self):
        return not self.ap and ask("wifi", "connected", None)

    def status(self, what=None):
        return ask("wifi", "status", what)

    def scan(self):
        return [(s.encode(), bytes(6), 6, rssi, 3, False) for s, rssi in ask("wifi", "scan", None)]

    def config(self, what=None, **settings):
        if what is None:
            return None
        if what == "mac":
            return bytes.fromhex(ask("id"))
        return ask("wifi", "config", what)

    def ifconfig(self, settings=None):
        return tuple(ask("wifi", "ifconfig", None))

    def ipconfig(self, what=None, **settings):
        if what == "addr4":
            return tuple(self.ifconfig()[:2])
