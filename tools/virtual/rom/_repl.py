# The console's three modes, as a board has them: friendly, raw, and raw with paste.
import sys
from _host import ask, quiet

_in = sys.stdin.buffer
_out = sys.stdout.buffer
_BANNER = "MicroPython %s; %s with %s\r\nType \"help()\" for more information.\r\n"


def _soft_reset():
    _out.write(b"MPY: soft reboot\r\n")
    ask("reset", "soft")


def _execute(source, kind, names, end):
    # end: what follows the output, and what follows the error, if any
    error = None
    try:
        ask("kbd", 3)
        exec(compile(source, "<stdin>", kind), names)
    except SystemExit:
        quiet()
        _soft_reset()
    except BaseException as caught:
        error = caught
    quiet()
    _out.write(end)
    if error is not None:
        sys.print_exception(error, sys.stdout)
    _out.write(end)


def _paste():
    # Raw paste: the sender may have 128 bytes under way, and gets leave for 128 more.
    _out.write(b"R\x01\x80\x00\x01")
    source = bytearray()
    while True:
        for _ in range(128):
            byte = _in.read(1)
            if byte == b"\x04":
                _out.write(b"\x04")
                return source
            if byte == b"\x03":
                _out.write(b"\x04")
                return None
            source += byte
        _out.write(b"\x01")


def _raw(names):
    _out.write(b"raw REPL; CTRL-B to exit\r\n>")
    source = bytearray()
    while True:
        byte = _in.read(1)
        if byte == b"\x01":
            if source == b"\x05A":
                source = _paste()
                if source is not None:
                    _execute(str(source, "utf-8"), "exec", names, b"\x04")
                else:
                    _out.write(b"\x04\x04")
                _out.write(b">")
            else:
                _out.write(b"raw REPL; CTRL-B to exit\r\n>")
            source = bytearray()
        elif byte == b"\x02":
            _out.write(b"\r\n")
            return
        elif byte == b"\x03":
            source = bytearray()
        elif byte == b"\x04":
            _out.write(b"OK")
            if not source:
                _out.write(b"\r\n")
                _soft_reset()
            _execute(str(source, "utf-8"), "exec", names, b"\x04")
            _out.write(b">")
            source = bytearray()
        elif source == b"\x05" and byte != b"A":
            source = bytearray()  # another command than paste: this board has none
            _out.write(b"R\x00")
        else:
            source += byte


def _line(prompt):
    # One typed line, echoed; or the control character that ended it.
    _out.write(prompt)
    line = bytearray()
    while True:
        byte = _in.read(1)
        if not byte:
            ask("gone")
        if byte in b"\x01\x02\x03\x05" or (byte == b"\x04" and not line):
            return byte
        if byte in b"\r\n":
            _out.write(b"\r\n")
            return str(line, "utf-8")
        if byte in b"\x08\x7f":
            if line:
                line = line[:-1]
                _out.write(b"\x08 \x08")
        elif byte >= b" " or byte == b"\t":
            line += byte
            _out.write(byte)


_COMPOUND = "if while for try with def class async @"


def _open(text):
    # Does this text want more lines?
    return text.rstrip()[-1:] in (":", "\\") or any(
        text.count(pair[0]) > text.count(pair[1]) for pair in ("()", "[]", "{}")
    )


def _begins_block(text):
    word = text.replace(":", " ").split(" ")[0]
    return bool(word) and (word[0] == "@" or word in _COMPOUND.split())


def _friendly(names):
    where = sys.implementation
    version = "v%d.%d.%d" % where.version[:3]
    banner = _BANNER % (version, where._machine, "a virtual ESP32")
    _out.write(b"\r\n" + banner.encode())
    while True:
        text = _line(b">>> ")
        block = isinstance(text, str) and (_open(text) or _begins_block(text))
        while block:
            more = _line(b"... ")
            if isinstance(more, bytes):
                text = more
                break
            text += "\n" + more
            block = more != "" or (not text.rstrip().endswith(":") and _open(text))
        if isinstance(text, str):
            if text.strip():
                _execute(text + "\n", "single", names, b"")
        elif text == b"\x01":
            return True
        elif text == b"\x02":
            _out.write(b"\r\n" + banner.encode())
        elif text == b"\x03":
            _out.write(b"\r\n")
        elif text == b"\x04":
            _out.write(b"\r\n")
            _soft_reset()
        elif text == b"\x05":
            _out.write(b"\r\npaste mode; Ctrl-C to cancel, Ctrl-D to finish\r\n=== ")
            source = bytearray()
            while True:
                byte = _in.read(1)
                if byte == b"\x03" or byte == b"\x04":
                    break
                byte = b"\n" if byte == b"\r" else byte
                source += byte
                _out.write(b"\r\n=== " if byte == b"\n" else byte)
            _out.write(b"\r\n")
            if byte == b"\x04":
                _execute(str(source, "utf-8"), "exec", names, b"")


def run(raw, names):
    """Talk until the board is reset. raw: begin in raw mode, as after a soft reset in it."""
    while True:
        try:
            quiet()
            if raw:
                ask("raw", True)
                _raw(names)
            ask("raw", False)
            raw = _friendly(names)
        except KeyboardInterrupt:
            pass
