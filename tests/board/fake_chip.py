"""A chip in its loader, for the real esptool: the serial protocol of the ROM and of the stub.

It is a pty that takes SLIP frames (0xC0 at both ends), as Espressif's "Serial Protocol" describes
them: direction, command, size, checksum, data. What is written ends up in `flash`. The stub that
esptool loads is not run: from then on the answers are shaped as the stub's are.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import pty
import select
import struct
import threading
import tty
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

from tools.lifetime import Startable

MAGIC_ADDRESS = 0x40001000
SPI_USER = 1 << 18
CHIPS = {  # name: magic number or None, chip id or None, base of the SPI registers, offset of W0
    "esp32": (0x00F01D83, None, 0x3FF42000, 0x80),
    "esp32s2": (0x000007C6, None, 0x3F402000, 0x58),
    "esp32c3": (None, 5, 0x60002000, 0x58),
}
FLASH_ID = {2: 0x1540EF, 4: 0x1640EF, 8: 0x1740EF}  # by megabytes: a Winbond's
UNKNOWN_COMMAND = b"\x01\x05"


@dataclass
class FakeChip(Startable):
    """chip: as board files name it. silent: it is not in its loader. worn: one bit of what is
    written does not hold. leaves_at: after so many bytes of the image its cable is pulled.

    erased: how often all of it was; asked: the commands, by number, in their order.
    """

    chip: str = "esp32"
    flash_mb: int = 4
    silent: bool = False
    worn: bool = False
    leaves_at: int | None = None
    erased: int = 0
    written: int = 0
    baud: int = 115200
    asked: list[int] = field(default_factory=list)

    def start(self) -> None:
        """Be there, on `port`."""
        self.flash = bytearray(b"\xa5" * (self.flash_mb << 20))  # of before
        self._stub = False
        self._registers: dict[int, int] = {}
        self._unpack = zlib.decompressobj()
        self._at = 0
        self._master, self._slave = pty.openpty()
        tty.setraw(self._slave)
        self.port = os.ttyname(self._slave)
        self._stop_read, self._stop_write = os.pipe()
        self._thread = threading.Thread(target=self._run, name="chip")
        self._thread.start()

    def stop(self) -> None:
        """Take the cable out."""
        os.close(self._stop_write)
        self._thread.join()
        os.close(self._stop_read)
        self._unplug()
        os.close(self._slave)

    def _unplug(self) -> None:
        """Take the port away. Its other end stays: nobody else shall get a port of that name."""
        with contextlib.suppress(OSError):
            os.close(self._master)
        self._master = -1

    def _run(self) -> None:
        partial = b""
        while self._master >= 0:
            ready, _, _ = select.select([self._master, self._stop_read], [], [])
            if self._stop_read in ready:
                return
            partial += os.read(self._master, 65536)
            while not self.silent and partial.count(b"\xc0") >= 2 and self._master >= 0:
                _, frame, partial = partial.split(b"\xc0", 2)
                if frame:
                    self._take(frame.replace(b"\xdb\xdc", b"\xc0").replace(b"\xdb\xdd", b"\xdb"))
                else:  # the end of one frame and the beginning of the next
                    partial = b"\xc0" + partial

    def _send(self, frame: bytes) -> None:
        body = frame.replace(b"\xdb", b"\xdb\xdd").replace(b"\xc0", b"\xdb\xdc")
        os.write(self._master, b"\xc0" + body + b"\xc0")

    def _answer(self, command: int, value: int = 0, data: bytes = b"", ok: bool = True) -> None:
        status = b"\0\0" if ok else UNKNOWN_COMMAND
        data += status if self._stub else status + b"\0\0"
        self._send(struct.pack("<BBHI", 1, command, len(data), value) + data)

    def _take(self, frame: bytes) -> None:
        _, command, _, _ = struct.unpack_from("<BBHI", frame)
        self.asked.append(command)
        doers: dict[int, Callable[[int, bytes], None]] = {
            0x02: self._begin, 0x03: self._data, 0x06: self._mem_end, 0x08: self._sync,
            0x09: self._write_reg, 0x0A: self._read_reg, 0x0F: self._baudrate,
            0x10: self._begin, 0x11: self._data, 0x13: self._md5, 0x14: self._security,
            0xD0: self._erase,
        }  # fmt: skip
        doers.get(command, lambda command, _data: self._answer(command))(command, frame[8:])

    def _sync(self, command: int, _data: bytes) -> None:
        for _ in range(8):
            self._answer(command, 0x20120707)

    def _security(self, command: int, _data: bytes) -> None:
        chip_id = CHIPS[self.chip][1]
        if chip_id is None:
            self._answer(command, ok=False)
        else:
            self._answer(command, 0, struct.pack("<I8xII", 0, chip_id, 0))

    def _read_reg(self, command: int, data: bytes) -> None:
        (address,) = struct.unpack("<I", data[:4])
        magic = CHIPS[self.chip][0]
        value = magic if address == MAGIC_ADDRESS else self._registers.get(address, 0)
        self._answer(command, value or 0)

    def _write_reg(self, command: int, data: bytes) -> None:
        address, value = struct.unpack("<II", data[:8])
        base, window = CHIPS[self.chip][2:]
        if address == base and value & SPI_USER:  # "run this flash command": which flash are you?
            self._registers[base + window] = FLASH_ID[self.flash_mb]
            value = 0
        self._registers[address] = value
        self._answer(command)

    def _mem_end(self, command: int, _data: bytes) -> None:
        self._answer(command)
        self._stub = True
        self._send(b"OHAI")

    def _baudrate(self, command: int, data: bytes) -> None:
        (self.baud,) = struct.unpack("<I", data[:4])
        self._answer(command)

    def _erase(self, command: int, _data: bytes) -> None:
        self.flash[:] = b"\xff" * len(self.flash)
        self.erased += 1
        self._answer(command)

    def _begin(self, command: int, data: bytes) -> None:
        self._at = struct.unpack_from("<I", data, 12)[0]
        self._unpack = zlib.decompressobj()
        self._answer(command)

    def _data(self, command: int, data: bytes) -> None:
        block = bytearray(self._unpack.decompress(data[16:]) if command == 0x11 else data[16:])
        if self.worn and block:
            block[0] ^= 1
        self.flash[self._at : self._at + len(block)] = block
        self._at += len(block)
        self.written += len(block)
        if self.leaves_at is not None and self.written >= self.leaves_at:
            self._unplug()
            return
        self._answer(command)

    def _md5(self, command: int, data: bytes) -> None:
        at, size = struct.unpack_from("<II", data)
        told = hashlib.md5(self.flash[at : at + size])
        self._answer(command, 0, told.digest() if self._stub else told.hexdigest().encode())
