# Sockets as on a chip: nothing is done by the first look. A connect takes until the far end has
# answered (links.py), reads and writes move a piece and then rest. select asks through ioctl(),
# as on a chip, and hears of HUP only if it asked for that.
import usocket
import io
import select
import time
from _host import ask
from micropython import const

_RD = const(1)
_WR = const(4)
_BOTH = const(5)
_HUP = const(16)
_NVAL = const(32)
_EBADF = const(9)
_EAGAIN = const(11)
_EINVAL = const(22)
_ETIMEDOUT = const(110)
_ECONNREFUSED = const(111)
_EINPROGRESS = const(115)
_piece, _rest_ms = ask("network")


class socket(io.IOBase):
    def __init__(self, *kind, sock=None):
        self._sock = sock or usocket.socket(*kind)
        self._sock.setblocking(False)
        self._connecting = False
        self._error = 0
        self._limit_ms = -1  # the longest to wait; -1: for ever
        self._poll = select.poll()
        self._poll.register(self._sock, 0)
        self._turn = 0
        self._rests = {_RD: 0, _WR: 0}  # until when nothing moves that way

    def _ready(self, mask):
        # Which of the mask the kernel's socket is ready for; all of it after an error.
        self._poll.modify(self._sock, mask)
        for _sock, event in self._poll.ipoll(0):
            return event if event in (_RD, _WR, _BOTH) else mask
        return 0

    def _settle(self):
        if self._connecting and self._ready(_RD):
            self._connecting = False
            try:
                if self._sock.recv(1) == b"+":
                    return
            except OSError:
                pass
            self._error = _ECONNREFUSED

    def _rest(self, way):
        return time.ticks_diff(self._rests[way], time.ticks_ms()) > 0

    def _part(self, way, most):
        # How much moves this time, of every size from one byte on; then it rests.
        if _piece:
            self._turn = (self._turn * 7 + 5) % 1009
            most = min(most, 1 + self._turn % _piece)
            self._rests[way] = time.ticks_add(time.ticks_ms(), _rest_ms)
        return most

    def _wait(self, way):
        # Until something moves that way; False where nothing does yet and we must not wait.
        since = time.ticks_ms()
        while not self.ioctl(3, way):
            if not self._limit_ms:
                return False
            if 0 < self._limit_ms <= time.ticks_diff(time.ticks_ms(), since):
                raise OSError(_ETIMEDOUT)
            time.sleep_ms(1)
        if self._error or not self._sock:
            raise OSError(self._error or _EBADF)
        return True

    def ioctl(self, request, arg):
        if request == 4:
            self.close()
            return 0
        if request != 3:
            return -_EINVAL
        if not self._sock:
            return _NVAL
        self._settle()
        if self._connecting:
            return 0
        if self._error:
            return arg & (_BOTH | _HUP)
        ready = self._ready(arg & _BOTH)
        for way in self._rests:
            if self._rest(way):
                ready &= ~way
        return ready

    def close(self):
        if self._sock:
            self._poll.unregister(self._sock)
            self._sock.close()
            self._sock = None

    def settimeout(self, timeout_s):
        self._limit_ms = -1 if timeout_s is None else int(timeout_s * 1000)

    def setblocking(self, flag):
        self._limit_ms = -1 if flag else 0

    def connect(self, address):
        self._sock.setblocking(True)
        self._sock.connect(address)  # to the relay, which is always there
        self._sock.setblocking(False)
        self._connecting = True
        if not self._wait(_WR):
            raise OSError(_EINPROGRESS)

    def readinto(self, buf, size=None):
        view = memoryview(buf)[: len(buf) if size is None else size]
        while self._wait(_RD):
            got = self._sock.readinto(view[: self._part(_RD, len(view))])
            if got is not None:
                return got

    def write(self, buf, size=None):
        view = memoryview(buf)[: len(buf) if size is None else size]
        done = 0
        while done < len(view) and self._wait(_WR):
            left = len(view) - done
            done += self._sock.write(view[done : done + self._part(_WR, left)]) or 0
        return done or (None if view else 0)

    def read(self, size=-1):
        data, buf = b"", bytearray(1 if size < 0 else size)
        while len(data) != size:
            got = self.readinto(buf, len(buf) if size < 0 else size - len(data))
            if not got:
                return None if got is None and not data else data
            data += buf[:got]
        return data

    def readline(self):
        line = b""
        while not line.endswith(b"\n"):
            byte = self.read(1)
            if not byte:
                break
            line += byte
        return line

    def recv(self, size, flags=0):
        buf = bytearray(size)
        got = self.readinto(buf)
        if got is None:
            raise OSError(_EAGAIN)
        return bytes(buf[:got])

    def send(self, data, flags=0):
        sent = self.write(data)
        if sent is None:
            raise OSError(_EAGAIN)
        return sent

    def sendall(self, data):
        if self.send(data) < len(data):
            raise OSError(_EAGAIN)

    def accept(self):
        if not self._wait(_RD):
            raise OSError(_EAGAIN)
        sock, address = self._sock.accept()
        return socket(sock=sock), address

    def makefile(self, *mode):
        return self

    def bind(self, address):
        self._sock.bind(address)

    def listen(self, backlog=2):
        self._sock.listen(backlog)

    def setsockopt(self, *option):
        self._sock.setsockopt(*option)

    def fileno(self):
        return self._sock.fileno()

    def sendto(self, data, address):
        return self._sock.sendto(data, address)

    def recvfrom(self, size):
        if not self._wait(_RD):
            raise OSError(_EAGAIN)
        return self._sock.recvfrom(size)
