"""Small files in one folder, read and written whole: what the ring needs of a file system.

The numbered ones (slots j0 ..., segments s1 ...) are spread over folders below it. When the log
of a littlefs folder is full, littlefs reads it through once for each entry in it: with all of
them in one folder that stood for seconds, every few dozen writes (docs/firmware.md).
"""

import os
from binascii import crc32

from micropython import const

from node import once

_SLOT_FOLDERS = const(12)
_SEG_FOLDERS = const(6)
_ENOENT = const(2)


class Store:
    """The files below one folder. Every method raises OSError, but for what is said."""

    def __init__(self, path="/ring"):
        self.path = path + "/"

    def names(self):
        """Return the names of all files, as far as they can be read."""
        return once("recover").names(self.path)

    def _at(self, name):
        """Return the path where a file belongs."""
        if name[1:].isdigit():
            number = int(name[1:])
            number = number % _SLOT_FOLDERS if name[0] == "j" else (
                _SLOT_FOLDERS + number % _SEG_FOLDERS)  # fmt: skip
            name = "%d/%s" % (number, name)
        return self.path + name

    def _do(self, what, name, *more):
        """Do it with the file where it belongs, or else where earlier firmware put it."""
        try:
            return what(self._at(name), *more)
        except OSError as error:
            if error.args[0] != _ENOENT:
                raise
        return what(self.path + name, *more)

    def size(self, name):
        """Return a file's size [bytes], -1 if there is none."""
        try:
            return self._do(os.stat, name)[6]
        except OSError:
            return -1

    def read(self, name, offset, buf):
        """Fill buf from a file at offset; return how many bytes there were, 0 without a file."""
        try:
            f = self._do(open, name, "rb")
        except OSError as error:
            if error.args[0] == _ENOENT:
                return 0
            raise
        try:
            if offset:
                f.seek(offset)
            return f.readinto(buf)
        finally:
            f.close()

    def crc(self, name, offset, end, buf):
        """Return the CRC-32 of a file from offset to end, None if it is shorter. buf: to use."""
        crc = 0
        f = self._do(open, name, "rb")
        try:
            f.seek(offset)
            while offset < end:
                got = f.readinto(buf[: min(len(buf), end - offset)])
                if not got:
                    return None
                crc = crc32(buf[:got], crc)
                offset += got
        finally:
            f.close()
        return crc

    def write(self, name, *parts):
        """Write a file anew. littlefs keeps the old content until close() returns."""
        place = self._at(name)
        try:
            f = open(place, "wb")
        except OSError as error:
            if error.args[0] != _ENOENT:
                raise
            os.mkdir(place[: place.rfind("/")])
            f = open(place, "wb")
        try:
            for part in parts:
                f.write(part)
        finally:
            f.close()

    def remove(self, name):
        try:
            self._do(os.remove, name)
        except OSError as error:
            if error.args[0] != _ENOENT:
                raise

    def rename(self, name, to):
        self._do(os.rename, name, self._at(to))
