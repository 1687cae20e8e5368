"""A tree made by `make install DESTDIR=`, carried to another system and booted there."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tools import nspawn
from tools.gateway_process import PROJECT
from tools.nspawn import Booted
from tools.ports import HOST, free_port, wait_for_port
from tools.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]
UNIT = "tidegate.service"
# What may change while something is installed with a DESTDIR; pip keeps what it fetched.
BUILD = """
touch /dev/gpiochip0  # as on a Pi
touch /before && sync
make install PYTHON=python3 DESTDIR=/stage PREFIX={prefix}
find / -xdev -cnewer /before -not -path '/stage*' -not -path '/root/.cache*' -not -path /tmp \
    -not -path /root -not -path / -not -path '/run*' -not -path '/dev*' -printf 'CHANGED %p\\n'
"""


@pytest.mark.parametrize(("prefix", "lib"), [("/opt/tidegate", "usr/local/lib"),
                                             ("/usr", "usr/lib")])
@pytest.mark.parametrize("suite", nspawn.SUITES)
def test_staged_tree_runs_on_a_system_that_it_is_carried_to(
        suite: str, prefix: str, lib: str, tmp_path: Path) -> None:
    why = nspawn.why_not()
    if why:
        pytest.skip(why)
    port = free_port()
    stage = tmp_path / "stage"
    with nspawn.fresh_root(suite) as builder:
        done = nspawn.run_in(builder, PROJECT, BUILD.format(prefix=prefix))
        assert done.returncode == 0, done.stdout
        assert "CHANGED" not in done.stdout
        # PyPI has lgpio for Python 3.11 and not for 3.13, and that stops nothing
        assert ("GPIO by PyPI's lgpio" in done.stdout) is (suite == "bookworm")
        assert ("apt install python3-lgpio" in done.stdout) is (suite == "trixie")
        subprocess.run(["cp", "-a", str(builder / "stage"), str(stage)], check=True)
    with nspawn.fresh_root(suite) as root:
        # not `cp -a stage root`: it would give the root's own folders the stage's owners
        subprocess.run(f"tar -C {stage} -c . | tar -C {root} -x --keep-directory-symlink",
                       shell=True, check=True)
        config = root / "etc/tidegate/tidegate.toml"
        config.write_text(config.read_text().replace("0.0.0.0:1883", f"{HOST}:{port}")
                          .replace("127.0.0.1:9883", f"127.0.0.1:{free_port()}"))
        subprocess.run(["systemctl", f"--root={root}", "enable", UNIT], check=True,
                       capture_output=True)
        with Booted(root, PROJECT, tmp_path / "console.log") as booted:
            wait_until(lambda: booted.show(UNIT, "ActiveState") == "active", 30.0, "active")
            wait_for_port(port)
            pid = booted.show(UNIT, "MainPID")
            assert booted.run("stat", "-c", "%U", f"/proc/{pid}") == "tidegate"
            assert booted.run("stat", "-c", "%U:%G %a", "/etc/tidegate/credentials") == \
                "root:tidegate 640"
            assert booted.run("tidegate", "device", "add", "board-1").splitlines()
            assert '"port": ' in booted.run("tidegate", "status", "--json")
            unit = Path("/", lib, "systemd/system", UNIT)  # systemd 252 calls /usr/lib /lib
            assert str(unit).endswith(booted.show(UNIT, "FragmentPath"))
