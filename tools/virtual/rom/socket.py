# Sockets are the real ones, slowed where the network takes time. Names lead through the air.
from usocket import *
import usocket
from _host import ask

if ask("network"):
    import _slow

    socket = _slow.socket


def getaddrinfo(host, port, af=0, type=0, proto=0, flags=0):
    address, near = ask("route", host, port)
    return usocket.getaddrinfo(address, near, usocket.AF_INET, usocket.SOCK_STREAM)
