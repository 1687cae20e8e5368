# Sockets are the real ones; names lead through the air, so that the radio can fall silent.
from usocket import *
import usocket
from _host import ask


def getaddrinfo(host, port, af=0, type=0, proto=0, flags=0):
    address, near = ask("route", host, port)
    return usocket.getaddrinfo(address, near, usocket.AF_INET, usocket.SOCK_STREAM)
