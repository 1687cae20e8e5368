"""DISCONNECT, so that the will is not published. Loaded when the node leaves."""

from micropython import const

_UP = const(4)  # as in node.link
_BYE_MS = const(900)


def say(link):
    """Say it and close.

    Waits until the other side closes, at most _BYE_MS: then it has heard it. A sleep right
    behind a packet takes away what the network has not carried yet.
    """
    wire = link.wire
    try:
        if link.state == _UP:
            wire.write(b"\xe0\0")  # umqtt's disconnect() would close before it is sent
            by = link.now_ms() + _BYE_MS
            while link.now_ms() < by:
                while wire.packet() is not None:
                    pass
                wire.flush()
                wire.wait(20)
    except Exception:
        pass
    link.close("")
