"""What umqtt takes for the socket module and for the socket: bytes in and out, never waiting.

umqtt.simple blocks in every call that reads (its faults 2, 3 and 5 in docs/firmware.md). Here
it writes into a buffer and reads from one, so no call of its can block:

- what umqtt writes is kept and sent by flush() as fast as the network takes it;
- what comes in is kept until a whole packet is there, and only then umqtt gets to parse it;
- a read() with nothing there raises Pending: umqtt.connect(), subscribe() and publish() at QoS 1
  are left in the middle, after they have written all of their packet, and the answer is taken
  from packet() when it comes.

It works the same with every version of umqtt, for plain TCP and for TLS. Nothing here may count
on being done by its first poll: on loopback all is, on a radio nothing is.
"""

import select
import socket

from micropython import const

_OUT_BYTES = const(896)  # the longest packet that goes out
_IN_BYTES = const(320)  # the longest that comes in; one that is longer is skipped

# EAGAIN, EINPROGRESS and EALREADY on lwip, Linux and others
_INPROGRESS = const((11, 36, 115, 118, 119))


class Pending(Exception):
    """umqtt wants to wait for an answer."""


class Broken(Exception):
    """The connection is of no use any more."""


class Wire:
    """One connection."""

    def __init__(self):
        self._out = memoryview(bytearray(_OUT_BYTES))
        self._in = memoryview(bytearray(_IN_BYTES))
        self._poll = select.poll()
        self._sock = None
        self.skipped = 0  # packets that were too long for us
        self._reset()

    def _reset(self):
        self._open = False  # the TCP connection stands
        self._sent = self._end = 0  # of _out: sent so far, end
        self._upto = 0  # the end of what is being sent, 0: nothing is
        self._got = self._at = 0  # of _in: bytes there, read so far by umqtt
        self._size = 0  # of the packet at the start of _in, 0 while that is unknown
        self._skip = 0  # bytes of a too long packet still to come

    # -- what umqtt calls: first as the module, then as the socket

    def socket(self, *_):
        return self

    def getaddrinfo(self, *_):
        return ((None,),)

    def connect(self, _):
        pass

    settimeout = setblocking = connect

    def read(self, size):
        if size and self._at >= self._size:
            raise Pending
        end = self._at + size
        if end > self._size:
            raise Broken("packet with wrong lengths inside")
        data = bytes(self._in[self._at : end])
        self._at = end
        return data

    def write(self, data, size=None):
        if size is None:
            size = len(data)
        end = self._end + size
        if end > len(self._out):
            raise Broken("packet too long to send")
        self._out[self._end : end] = memoryview(data)[:size]
        self._end = end
        return size

    def close(self):
        sock, self._sock = self._sock, None
        self._reset()
        if sock:
            try:
                self._poll.unregister(sock)
            except (OSError, KeyError):
                pass
            try:
                sock.close()
            except OSError:
                pass

    # -- what the link calls

    def open(self, addr):
        """Begin to connect. addr: as getaddrinfo gives it. Raises OSError."""
        self.close()
        self._sock = sock = socket.socket()
        sock.setblocking(False)
        try:
            sock.connect(addr)
        except OSError as error:
            if error.args[0] not in _INPROGRESS:
                self.close()
                raise
        # a chip tells of HUP only where it is asked for, and of a refused connect as POLLOUT too
        self._poll.register(sock, select.POLLOUT | select.POLLERR | select.POLLHUP)

    def opened(self):
        """Return whether the TCP connection stands. Raise Broken if it was refused."""
        for _sock, event in self._poll.ipoll(0):
            if event & ~select.POLLOUT:
                raise Broken("connection refused")
            self._open = True
        return self._open

    def secure(self, tls, host):
        """Go on in TLS; the handshake happens in the coming flush() calls."""
        plain = self._sock
        self._poll.unregister(plain)
        self._sock = tls.wrap_socket(
            plain, server_hostname=host, do_handshake_on_connect=False
        )
        self._poll.register(self._sock, select.POLLIN | select.POLLOUT)

    def idle(self):
        """Return whether all that was written has been handed to the network."""
        return self._sent == self._end

    def room(self, at):
        """Return the buffer for what goes out, from at: a payload built there is not held twice.

        Only while idle(). What write() puts before it must not be longer than at.
        """
        return self._out[at:]

    def flush(self):
        """Send what the network takes now; return whether it took any. Raise OSError if gone."""
        if self._sent == self._end:
            return False
        if not self._upto:
            self._upto = self._end
        # given more before it has sent this, TLS says it has sent all (mbedtls_ssl_write)
        sent = self._sock.write(self._out[self._sent : self._upto])
        if not sent:
            return False
        self._sent += sent
        if self._sent == self._upto:
            self._upto = 0
            if self._sent == self._end:
                self._sent = self._end = 0
        return True

    def packet(self):
        """Return the first byte of a packet that has come whole, or None.

        The packet before it is gone by then. Raises Broken or OSError.
        """
        if self._size:  # the packet before is done with
            rest = self._got - self._size
            self._in[:rest] = self._in[self._size : self._got]
            self._got, self._size, self._at = rest, 0, 0
        if not self._framed():
            self._fill()
            if not self._framed():
                return None
        return self._in[0]

    def body(self):
        """Return a memoryview of the packet after its fixed header."""
        at = 1
        while self._in[at] & 0x80:
            at += 1
        return self._in[at + 1 : self._size]

    def half(self):
        """Return 0, or where a packet has begun and not ended a number that each byte changes."""
        return self._skip or (0 if self._size else self._got)

    def wait(self, ms):
        """Wait until there is something to read, or to send if there was, at most ms."""
        if self._sock is None:
            return False
        if self._open:  # else it waits for that
            mask = select.POLLIN if self._sent == self._end else select.POLLIN | select.POLLOUT
            self._poll.modify(self._sock, mask)
        for _event in self._poll.ipoll(ms):
            pass
        return True

    def _fill(self):
        while True:
            room = self._in[self._got :]
            got = self._sock.readinto(room)
            if got is None:
                return
            if got == 0:
                raise Broken("closed by the other side")
            self._got += got
            if self._skip:
                gone = min(self._skip, self._got)
                self._skip -= gone
                self._in[: self._got - gone] = self._in[gone : self._got]
                self._got -= gone
            if self._got == len(self._in) or got < len(room):
                return

    def _framed(self):
        """Find the length of the packet at the start; return whether all of it is there."""
        size, shift, at = 0, 0, 1
        while True:
            if at >= self._got:
                return False
            byte = self._in[at]
            size |= (byte & 0x7F) << shift
            shift += 7
            at += 1
            if not byte & 0x80:
                break
            if at > 4:
                raise Broken("packet with a malformed length")
        size += at
        if size > len(self._in):
            self.skipped += 1
            self._skip = size - self._got
            self._got = 0
            return False
        if size > self._got:
            return False
        self._size = size
        return True
