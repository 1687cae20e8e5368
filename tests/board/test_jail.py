"""The host's files are out of a virtual board's reach, and these tests would notice otherwise."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tools import interpreter
from tools.virtual import VirtualBoard, jail, rootfs

Make = Callable[..., VirtualBoard]
NOBODY = 65534

# Everything a firmware could try: the host's root mounted anew, paths that climb, a shell,
# and a careless `rm -r`. Says for each how far it got.
ATTACK = """
import os, vfs
marker = {marker!r}
def attempt(what, action):
    try:
        result = action()
    except Exception as error:
        result = None
    print("attempt", what, "reached" if result else "failed")
def read(path):
    with open(path) as f:
        return f.read() == "precious"
def write(path):
    with open(path, "w") as f:
        return f.write("spoilt")
def remove(path):
    os.remove(path)
    return True
def sweep(folder):
    gone = 0
    for entry in os.ilistdir(folder):
        path = folder.rstrip("/") + "/" + entry[0]
        try:
            if entry[1] == 0x4000:
                gone += sweep(path)
                os.rmdir(path)
            else:
                os.remove(path)
                gone += 1
        except OSError:
            pass
    return gone
def everything():
    sweep("/")
    return not os.listdir("/")
attempt("read", lambda: read(marker))
attempt("climb", lambda: read("../../../../../.." + marker))
attempt("shell", lambda: os.system("cat " + marker) == 0)
try:
    vfs.mount(vfs.VfsPosix("/"), "/host")
except Exception as error:
    print("no host", error)
attempt("mounted read", lambda: read("/host" + marker))
attempt("mounted climb", lambda: read("/host/../../../../.." + marker))
attempt("mounted write", lambda: write("/host" + marker))
attempt("mounted sweep", lambda: sweep("/host" + {folder!r}))
attempt("mounted remove", lambda: remove("/host" + marker))
attempt("write", lambda: write(marker))
attempt("remove", lambda: remove(marker))
try:
    vfs.umount("/host")
except Exception as error:
    print("not mounted", error)
print("attempt over")
"""
SWEEP_ROOT = "\nattempt('sweep', everything)\nprint('swept', os.listdir('/'))\n"


@pytest.fixture
def marker() -> Iterator[Path]:
    """Give a file that anybody on this machine may read, write and remove."""
    with tempfile.TemporaryDirectory(prefix="tidegate-marker-") as folder:
        Path(folder).chmod(0o777)
        path = Path(folder) / "marker"
        path.write_text("precious")
        path.chmod(0o666)
        yield path


def attack(marker: Path) -> str:
    return ATTACK.format(marker=str(marker), folder=str(marker.parent))


def test_board_reaches_no_file_of_the_host(make: Make, marker: Path) -> None:
    board = make(attack(marker) + SWEEP_ROOT, config={"device": "x"})
    board.wait("^swept ")
    said = [line for line in board.console.lines if line.startswith("attempt")]
    assert [line for line in said if line.endswith("reached")] == ["attempt sweep reached"]
    assert len(said) == 12
    assert "swept []" in board.console.lines, "its own flash is its own to sweep"
    assert marker.read_text() == "precious"


def test_same_attack_without_the_jail_reaches_the_file(marker: Path, tmp_path: Path) -> None:
    # Only on a folder of its own: shows that the attack above is one.
    script = tmp_path / "attack.py"
    script.write_text(attack(marker))
    done = subprocess.run(
        [*interpreter.obtain().command, str(script)], capture_output=True, text=True, timeout=20
    )
    assert "attempt read reached" in done.stdout
    assert "attempt mounted read reached" in done.stdout
    assert "attempt mounted write reached" in done.stdout
    assert "attempt mounted sweep reached" in done.stdout
    assert not marker.exists()


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def test_board_has_no_rights(make: Make) -> None:
    board = make("print('up')")
    board.wait("^up$")
    assert board.pid is not None
    status = status_of(board.pid)
    assert "0" not in status["Uid"].split()
    assert "0" not in status["Gid"].split()
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    if os.getuid() == 0:
        assert status["Groups"].split() == []
        try:
            seen = Path(f"/proc/{board.pid}/root").readlink()
        except PermissionError:  # a container's root may not look
            return
        assert seen == rootfs.prepare().path


def test_board_has_no_other_descriptors(make: Make) -> None:
    board = make("print('up')")
    board.wait("^up$")
    held = sorted(int(path.name) for path in Path(f"/proc/{board.pid}/fd").iterdir())
    assert [fd for fd in held if fd < 100] == held
    assert held[:6] == [0, 1, 2, 3, 4, 5]


PLACED = """
import os, random, sys
from tools.virtual import jail
random.seed(1)
wrong = []
for first in range(0, 120):
    pid = os.fork()
    if pid:
        if os.waitpid(pid, 0)[1]:
            wrong.append(first)
        continue
    kept = [os.memfd_create(str(n)) for n in range(6)]
    inodes = [os.fstat(fd).st_ino for fd in kept]
    kept = [os.dup2(fd, 200 + n) for n, fd in enumerate(kept)]
    given = random.sample(range(first, first + 7), 6)
    for fd, at in zip(kept, given):
        os.dup2(fd, at)
    jail.place(given)
    os._exit([os.fstat(n).st_ino for n in range(6)] != inodes or os.path.exists("/proc/self/fd/6"))
sys.exit(f"wrong from {wrong}" if wrong else 0)
"""


def test_descriptors_come_to_their_places_from_any(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PLACED], capture_output=True, text=True,
                          timeout=60)
    assert done.returncode == 0, done.stderr


def test_board_starts_in_a_process_with_a_hundred_open_files(tmp_path: Path) -> None:
    script = f"""
import os
from pathlib import Path
from tools.virtual import VirtualBoard
with VirtualBoard(image=Path({str(tmp_path / "a.img")!r}),
                  files={{"main.py": b"print('up')"}}) as board:
    board.power_cut()
    held = [os.dup(2) for _ in range(90)]
    mark = board.console.mark()
    board.power_on()
    board.wait("^up$", after=mark)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True,
                          timeout=60)
    assert done.returncode == 0, done.stderr


def gone(pid: int, limit_s: float = 5.0) -> bool:
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        try:
            if status_of(pid)["State"].startswith("Z"):
                return True
        except (FileNotFoundError, ProcessLookupError):
            return True
        os.sched_yield()
    return False


def test_stop_leaves_no_process(make: Make) -> None:
    board = make("while True:\n    pass")
    pid = board.pid
    assert pid
    board.stop()
    assert not Path(f"/proc/{pid}").exists()
    board.stop()


def test_board_dies_with_the_process_that_started_it(tmp_path: Path) -> None:
    script = f"""
import time
from pathlib import Path
from tools.virtual import VirtualBoard
board = VirtualBoard(image=Path({str(tmp_path / "orphan.img")!r}),
                     files={{"main.py": b"print('up')\\nwhile True: pass"}}).start()
board.wait("^up$")
print(board.pid, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        assert status_of(pid)["State"][0] in "RS"
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    assert gone(pid)


def jailed(root: Path, code: str, **kw: object) -> subprocess.CompletedProcess[str]:
    """Run code on the jailed interpreter, by a Python that any user may run."""
    python = shutil.which("python3", path="/usr/bin:/bin:/usr/local/bin")
    if python is None:
        pytest.skip("no Python here that an ordinary user may run")
    null = os.open(os.devnull, os.O_RDWR)
    read, write = os.pipe()
    script = root.parent / "jail.py"
    shutil.copy(jail.__file__, script)
    script.chmod(0o644)
    given = ",".join(map(str, [null, write, write, null, null, null]))
    command = [python, "-I", str(script), str(root), str(os.getpid()), given]
    command += ["{}/ld.so", "--library-path", "{}/lib", "{}/micropython", "-c", code]
    done = subprocess.run(  # type: ignore[call-overload]
        command, pass_fds=[null, write], capture_output=True, text=True, timeout=20, **kw
    )
    os.close(write)
    os.close(null)
    with os.fdopen(read) as output:
        return subprocess.CompletedProcess(command, done.returncode, output.read(), done.stderr)


@pytest.fixture
def open_root() -> Iterator[Path]:
    """Give a root for boards in a place that every user may enter."""
    with tempfile.TemporaryDirectory(prefix="tidegate-root-") as folder:
        Path(folder).chmod(0o755)
        root = Path(folder) / "root"
        shutil.copytree(rootfs.prepare().path, root)
        root.chmod(0o755)
        yield root


@pytest.mark.skipif(os.getuid() != 0, reason="an ordinary user's jail is what the others test")
def test_ordinary_user_is_locked_in_too(open_root: Path, marker: Path) -> None:
    done = jailed(open_root, attack(marker), user=NOBODY, group=NOBODY, extra_groups=[])
    if done.returncode == jail.REFUSED:
        pytest.skip(done.stderr.strip())
    assert done.stdout.splitlines()[-1] == "attempt over", done.stdout + done.stderr
    assert "reached" not in done.stdout
    assert marker.read_text() == "precious"


def test_refuses_in_one_line_where_it_cannot_lock_in(tmp_path: Path) -> None:
    done = jailed(tmp_path / "nowhere", "print('ran')")
    assert done.returncode == jail.REFUSED
    assert "ran" not in done.stdout
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("virtual board: cannot be locked away from your files: ")


def test_board_that_cannot_be_locked_in_is_an_error(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    board = make("print('up')")
    board.power_cut()
    nowhere = rootfs.Rootfs(Path("/nowhere"), interpreter.obtain())
    monkeypatch.setattr(board.core, "rootfs", nowhere)
    board.power_on()
    assert board.wait_off()
    with pytest.raises(RuntimeError, match="cannot be locked away"):
        board.power_on()


def test_landlock_hides_what_is_outside(open_root: Path, marker: Path) -> None:
    code = f"""
import os, sys
sys.path.insert(0, {str(Path(jail.__file__).parent)!r})
import jail
try:
    jail.by_landlock({str(open_root)!r})
except jail.RefusedError as reason:
    sys.exit(f"skip: {{reason}}")
os.listdir({str(open_root)!r})
for action in (open, os.remove, lambda path: open(path, "w")):
    try:
        action({str(marker)!r})
    except PermissionError:
        continue
    sys.exit("reached")
print("hidden")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
    if done.stderr.startswith("skip"):
        pytest.skip(done.stderr.strip())
    assert done.stdout == "hidden\n", done.stderr
    assert marker.read_text() == "precious"


def test_type_of_a_board_without_start_is_clear(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="not started"):
        VirtualBoard(image=tmp_path / "x.img").power_on()
