"""What the kernel says of a TCP connection: what moved on it, whoever else has looked.

Linux only (struct tcp_info, tcp(7); its layout is part of the kernel's interface and only grows).
Elsewhere nothing is known, and only what a program reads counts.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import sys
import termios
from typing import Any, NamedTuple

_RETRANSMITS_AT, _UNACKED_AT = 2, 24
TRIES = 3
_TIMES = struct.Struct("=II")  # tcpi_rtt, tcpi_rttvar [us]
_TIMES_AT = 68
_MOVED = struct.Struct("=QQ")  # tcpi_bytes_acked, tcpi_bytes_received
_MOVED_AT = 120
_QUEUED = struct.Struct("=i")
_NOTSENT_LOWAT = 25  # TCP_NOTSENT_LOWAT, which Python 3.11 does not name


class Moved(NamedTuple):
    """Bytes on the wire since the connection began, TLS and WebSocket included.

    taken: of ours, acknowledged by the peer's TCP. received: of the peer's, by our TCP. queued:
    of ours, written and not yet acknowledged (SIOCOUTQ). answer_s: within which an acknowledgement
    comes, by what was measured (RFC 6298's RTO, not lengthened by losses). trying: something is
    out without an acknowledgement, and the kernel has sent it again fewer than TRIES times.
    """

    taken: int
    received: int
    queued: int
    answer_s: float = 0.0
    trying: bool = False


def moved(sock: Any) -> Moved | None:
    """What moved on a socket; None where the system does not say, or the socket is closed."""
    if sock is None or not sys.platform.startswith("linux"):
        return None
    try:
        info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _MOVED_AT + _MOVED.size)
        # in this order: a byte taken in between must not count twice
        queued = _QUEUED.unpack(fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4)))[0]
    except (OSError, ValueError):
        return None
    if len(info) < _MOVED_AT + _MOVED.size:
        return None
    taken, received = _MOVED.unpack_from(info, _MOVED_AT)
    rtt_us, var_us = _TIMES.unpack_from(info, _TIMES_AT)
    trying = any(info[_UNACKED_AT:_UNACKED_AT + 4]) and info[_RETRANSMITS_AT] < TRIES
    return Moved(taken, received, queued, (rtt_us + 4 * var_us) / 1e6, trying)


def keep_queue_short(sock: Any, most_bytes: int) -> None:
    """Let the kernel take so many bytes that it cannot send yet, and no more."""
    if sys.platform.startswith("linux"):
        sock.setsockopt(socket.IPPROTO_TCP, _NOTSENT_LOWAT, most_bytes)
