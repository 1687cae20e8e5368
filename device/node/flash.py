"""Small files in one folder, read and written whole: what the ring needs of a file system."""

import os


class Store:
    """The files below one folder. Every method raises OSError, but for what is said."""

    def __init__(self, path="/ring"):
        self.path = path + "/"
        try:
            os.mkdir(path)
        except OSError:
            pass  # there already; if not, the first write says so

    def names(self):
        """Return the names of all files; none if the folder cannot be read."""
        try:
            return os.listdir(self.path[:-1])
        except OSError:
            return []

    def size(self, name):
        """Return a file's size [bytes], -1 if there is none."""
        try:
            return os.stat(self.path + name)[6]
        except OSError:
            return -1

    def read(self, name, offset, buf):
        """Fill buf from a file at offset; return how many bytes there were, 0 without a file."""
        try:
            f = open(self.path + name, "rb")
        except OSError as error:
            if error.args[0] == 2:  # ENOENT
                return 0
            raise
        try:
            if offset:
                f.seek(offset)
            return f.readinto(buf)
        finally:
            f.close()

    def write(self, name, *parts):
        """Write a file anew. littlefs keeps the old content until close() returns."""
        f = open(self.path + name, "wb")
        try:
            for part in parts:
                f.write(part)
        finally:
            f.close()

    def remove(self, name):
        try:
            os.remove(self.path + name)
        except OSError as error:
            if error.args[0] != 2:
                raise

    def rename(self, name, to):
        os.rename(self.path + name, self.path + to)
