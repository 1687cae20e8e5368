"""mpremote cannot tell the virtual board from a board: every verb that touches one."""

from __future__ import annotations

import http.server
import json
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tools.virtual import VirtualBoard

Make = Callable[..., VirtualBoard]
MAIN = "print('main runs')\n"


@pytest.fixture
def board(make: Make) -> VirtualBoard:
    board = make(MAIN, pty=True, heap_kb=128)
    board.wait("MicroPython v")
    return board


def mpremote(board: VirtualBoard, *words: str, ok: bool = True, cwd: Path | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "mpremote", "connect", board.port, *words],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=cwd,
        stdin=subprocess.DEVNULL,
    )
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    return done.stdout + (done.stderr if not ok else "")


def test_exec_eval_and_run(board: VirtualBoard, tmp_path: Path) -> None:
    assert mpremote(board, "exec", "print(6 * 7)") == "42\n"
    assert mpremote(board, "eval", "sum(range(10))") == "45\n"
    script = tmp_path / "script.py"
    script.write_text("import sys\nfor n in range(3):\n    print(n, sys.implementation.name)\n")
    out = mpremote(board, "run", str(script))
    assert out == "0 micropython\n1 micropython\n2 micropython\n"


def test_error_on_the_board_is_an_error_of_mpremote(board: VirtualBoard) -> None:
    assert "ZeroDivisionError" in mpremote(board, "exec", "1 / 0", ok=False)


def test_long_program_goes_through_raw_paste(board: VirtualBoard) -> None:
    program = "\n".join(f"x{n} = {n}" for n in range(400)) + "\nprint(x399)"
    assert mpremote(board, "exec", program) == "399\n"


def test_every_file_verb(board: VirtualBoard, tmp_path: Path) -> None:
    local = tmp_path / "data.bin"
    local.write_bytes(bytes(range(256)) * 5)
    tree = tmp_path / "pkg"
    (tree / "sub").mkdir(parents=True)
    (tree / "a.py").write_text("A = 1\n")
    (tree / "sub" / "b.py").write_text("B = 2\n")
    mpremote(board, "fs", "cp", str(local), ":data.bin")
    back = tmp_path / "back.bin"
    mpremote(board, "fs", "cp", ":data.bin", str(back))
    assert back.read_bytes() == local.read_bytes()
    mpremote(board, "fs", "cp", "-r", str(tree), ":")
    mpremote(board, "fs", "mkdir", ":empty")
    mpremote(board, "fs", "touch", ":touched")
    listing = mpremote(board, "fs", "ls", ":")
    assert re.findall(r"\d+ (\S+)", listing) == [
        "data.bin", "empty/", "main.py", "pkg/", "touched",
    ]  # fmt: skip
    assert mpremote(board, "fs", "cat", ":pkg/sub/b.py") == "B = 2\n"
    tree_said = mpremote(board, "fs", "tree", ":pkg")
    assert "b.py" in tree_said
    digest = subprocess.run(["sha256sum", str(local)], capture_output=True, text=True).stdout
    assert digest.split()[0] in mpremote(board, "fs", "sha256sum", ":data.bin")
    assert "2097152" in mpremote(board, "df")
    mpremote(board, "fs", "cp", ":data.bin", ":copy.bin")
    mpremote(board, "fs", "rm", ":copy.bin")
    mpremote(board, "fs", "rmdir", ":empty")
    mpremote(board, "fs", "rm", "-r", ":pkg")
    left = re.findall(r"\d+ (\S+)", mpremote(board, "fs", "ls", ":"))
    assert left == ["data.bin", "main.py", "touched"]
    assert "No such file" in mpremote(board, "fs", "cat", ":nothing", ok=False)


def test_removing_everything_removes_the_board_s_files_only(
    board: VirtualBoard, tmp_path: Path
) -> None:
    witness = tmp_path / "witness"
    witness.write_text("here")
    mpremote(board, "exec", "open('x', 'w').close()")
    # All goes but the root itself, which MicroPython's file system layer keeps, here as on a chip.
    assert "Operation not permitted" in mpremote(board, "fs", "rm", "-r", ":/", ok=False)
    assert mpremote(board, "exec", "import os; print(os.listdir('/'))") == "[]\n"
    assert witness.read_text() == "here"
    assert Path("/etc/os-release").exists()


def test_soft_reset_runs_main_and_resume_does_not(board: VirtualBoard) -> None:
    mpremote(board, "exec", "kept = 5")
    assert mpremote(board, "resume", "exec", "print('kept' in globals())") == "True\n"
    assert mpremote(board, "exec", "print('kept' in globals())") == "False\n"
    mark = board.console.mark()
    mpremote(board, "resume", "soft-reset")
    board.wait("soft reboot", after=mark)
    mark = board.console.mark()
    mpremote(board, "resume", "exec", "--no-follow", "import machine; machine.reset()")
    board.wait("^main runs$", after=mark)


def test_reset_verb_restarts_the_board(board: VirtualBoard) -> None:
    mark = board.console.mark()
    mpremote(board, "reset")
    board.wait("^main runs$", after=mark)


def test_mount_runs_files_of_this_machine(board: VirtualBoard, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    (shared / "there.py").write_text("print('from the other side', __name__)\n")
    (shared / "data").write_bytes(b"line one\r\nline two\n\x03\x04")
    program = "import os, there; print(sorted(os.listdir()), open('data', 'rb').read())"
    out = mpremote(board, "mount", str(shared), "exec", program)
    assert "from the other side there" in out
    assert "['data', 'there.py'] b'line one\\r\\nline two\\n\\x03\\x04'" in out
    mpremote(board, "mount", str(shared), "exec", "f = open('new', 'w'); f.write('x'); f.close()")
    assert (shared / "new").read_text() == "x"


@pytest.fixture
def index(tmp_path: Path) -> Iterator[str]:
    """Give the address of a package index with one package."""
    root = tmp_path / "index"
    (root / "package" / "6" / "greet").mkdir(parents=True)
    (root / "package" / "py" / "greet").mkdir(parents=True)
    (root / "file" / "ab").mkdir(parents=True)
    (root / "file" / "ab" / "abcdef12").write_text("def hello():\n    print('hello by mip')\n")
    about = {"v": 1, "version": "1.0", "hashes": [["greet.py", "abcdef12"]], "deps": []}
    for kind in ("6", "py"):
        (root / "package" / kind / "greet" / "latest.json").write_text(json.dumps(about))

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(root)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_mip_installs_from_a_local_index(board: VirtualBoard, index: str) -> None:
    mpremote(board, "mip", "install", "--no-mpy", "--index", index, "greet")
    assert mpremote(board, "exec", "import greet; greet.hello()") == "hello by mip\n"


def test_chained_verbs(board: VirtualBoard, tmp_path: Path) -> None:
    (tmp_path / "z.py").write_text("print('z')\n")
    out = mpremote(
        board, "cp", str(tmp_path / "z.py"), ":", "+", "exec", "import z", "+", "rm", ":z.py"
    )
    assert "z\n" in out
    assert "z.py" not in mpremote(board, "ls")


def test_ctrl_c_stops_what_runs(make: Make) -> None:
    board = make("import time\nprint('loops')\nwhile True:\n    time.sleep(1)\n", pty=True)
    board.wait("^loops$")
    assert mpremote(board, "exec", "print('taken over')") == "taken over\n"
    assert any("KeyboardInterrupt" in line for line in board.console.lines)


def test_repl_is_a_terminal(board: VirtualBoard) -> None:
    master, slave = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "mpremote", "connect", board.port, "repl"],
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    said = b""

    def until(what: bytes) -> None:
        nonlocal said
        while what not in said:
            said += os.read(master, 1000)
        said = said[said.index(what) + len(what) :]

    try:
        until(b"Ctrl-x to exit")
        os.write(master, b"\r")
        until(b">>> ")
        os.write(master, b"for n in range(2):\r  print('n', n)\r\r")
        until(b"n 0\r\nn 1\r\n>>> ")
        os.write(master, b"while True: pass\r\r")
        until(b"... \r\n")
        os.write(master, b"\x03")
        until(b"KeyboardInterrupt")
        os.write(master, b"\x04")
        until(b"MPY: soft reboot")
        until(b"main runs\r\n")
        os.write(master, b"\x1d")
        assert child.wait(timeout=10) == 0
    finally:
        child.kill()
        child.wait()
        os.close(master)


def test_port_in_use_is_told(board: VirtualBoard) -> None:
    with open(board.port, "rb") as port:  # noqa: PTH123
        import fcntl

        fcntl.flock(port, fcntl.LOCK_EX | fcntl.LOCK_NB)
        assert "in use" in mpremote(board, "exec", "1", ok=False)


def test_output_without_a_reader_does_not_stop_the_board(make: Make) -> None:
    board = make("for n in range(3000):\n    print('x' * 60)\nprint('end')\n", pty=True)
    board.wait("^end$")


def test_output_faster_than_its_reader_is_not_lost(board: VirtualBoard) -> None:
    out = mpremote(board, "exec", "for n in range(6000):\n print(n, 'x' * 60)")
    assert out.splitlines()[-1] == "5999 " + "x" * 60
    assert len(out.splitlines()) == 6000


def test_clock_is_set_and_read(board: VirtualBoard) -> None:
    mpremote(board, "rtc", "--set")
    said = mpremote(board, "rtc")
    year = int(re.findall(r"\d{4}", said)[0])
    assert year >= 2025
