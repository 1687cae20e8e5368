"""`make install` into a DESTDIR: what is there, where it points, and what is left alone."""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

from tools import install, install_gpio
from tools.gateway_process import PROJECT

RELEASE = "opt/tidegate/releases/0.1.0-1"
pytestmark = pytest.mark.timeout(300)  # an installation compiles all it brings


def run_install(verb: str, umask: int = 0o022, **settings: str | Path) -> str:
    done = subprocess.run(
        ["make", "--no-print-directory", verb, f"PYTHON={sys.executable}",
         *(f"{key}={value}" for key, value in settings.items())],
        cwd=PROJECT, capture_output=True, text=True, check=False, umask=umask)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def files_below(folder: Path) -> dict[str, float]:
    """Every path with the time of its last change, what git and the checkers keep left out."""
    found = {}
    for path, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".") and name not in (
            "__pycache__",)]
        for name in (*folders, *names):
            found[str(Path(path, name))] = Path(path, name).lstat().st_ctime
    return found


@pytest.fixture(scope="module")
def staged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DESTDIR with a release in it, made under a tight umask, as a careful root has it."""
    root = tmp_path_factory.mktemp("stage") / "root"
    temporary = tmp_path_factory.mktemp("tmp")
    before = files_below(PROJECT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", str(temporary))
        said = run_install("install", DESTDIR=root, umask=0o077)
    assert files_below(PROJECT) == before
    assert not list(temporary.iterdir())
    assert f"systemctl --root={root} enable" in said
    return root


def test_tree_is_right_for_the_installed_system(staged: Path) -> None:
    assert {str(path.relative_to(staged)) for path in staged.glob("*/*/*")} == {
        "opt/tidegate/current", "opt/tidegate/releases", "etc/tidegate/tidegate.toml",
        "etc/tidegate/credentials", "usr/local/bin", "usr/local/lib"}
    assert (staged / "opt/tidegate/current").readlink() == Path("/") / RELEASE
    assert (staged / "usr/local/bin/tidegate").readlink() == Path(
        "/opt/tidegate/current/bin/tidegate")
    assert (staged / RELEASE / "bin/tidegate").read_text().startswith(
        f"#!/{RELEASE}/bin/python\n")
    unit = (staged / "usr/local/lib/systemd/system/tidegate.service").read_text()
    assert ("ExecStart=/opt/tidegate/current/bin/tidegate run "
            "-c /etc/tidegate/tidegate.toml\n") in unit
    assert "@" not in unit.replace("@system-service", "").replace("@privileged", "").replace(
        "@resources", "")


def test_nothing_in_it_knows_where_it_was_built(staged: Path) -> None:
    place = str(staged).encode()
    knows = [path for path in staged.rglob("*") if path.is_file() and not path.is_symlink()
             and place in path.read_bytes()]
    assert not knows
    links = [path for path in staged.rglob("*") if path.is_symlink()]
    assert links
    assert not [path for path in links if str(staged) in str(path.readlink())]


def test_service_s_user_can_read_it_and_nobody_else_the_settings(staged: Path) -> None:
    for path in (staged / "opt").rglob("*"):
        if not path.is_symlink():
            assert path.stat().st_mode & 0o044 == 0o044, path
    assert (staged / "etc/tidegate").stat().st_mode & 0o777 == 0o750
    assert (staged / "etc/tidegate/credentials").stat().st_mode & 0o777 == 0o640


def test_its_python_runs_the_gateway(staged: Path, tmp_path: Path) -> None:
    def tidegate(*words: str) -> str:
        done = subprocess.run(
            [staged / RELEASE / "bin/python", "-I", staged / RELEASE / "bin/tidegate", *words],
            cwd=tmp_path, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    (tmp_path / "tidegate.toml").write_text('[upstream]\nurl = "mqtt://broker.example"\n')
    assert tidegate("run", "--check", "-c", "tidegate.toml") == "tidegate.toml: ok\n"
    for command in ("run", "status", "device", "devices", "watch", "outbox", "certs"):
        assert f"\n  {command} " in tidegate("--help")
        assert tidegate(command, "--help").startswith(f"Usage: tidegate {command} ")
    assert tidegate("demo", "--help").startswith("Error: demo needs rich: pip install")


def test_upgrade_keeps_settings_and_two_releases_and_uninstall_what_is_not_ours(
        staged: Path) -> None:
    config = staged / "etc/tidegate/tidegate.toml"
    config.write_text("# mine\n")
    stranger = staged / "opt/tidegate/releases/other/file"
    stranger.parent.mkdir()
    stranger.touch()
    for number in (2, 3):
        assert "kept as it is" in run_install("upgrade", DESTDIR=staged)
        assert (staged / "opt/tidegate/current").readlink().name == f"0.1.0-{number}"
    assert config.read_text() == "# mine\n"
    releases = staged / "opt/tidegate/releases"
    assert sorted(path.name for path in releases.iterdir()) == ["0.1.0-2", "0.1.0-3", "other"]
    run_install("uninstall", DESTDIR=staged)
    assert {path for path in staged.rglob("*") if path.is_file() or path.is_symlink()} == {
        stranger, config, config.parent / "credentials"}


@pytest.mark.parametrize(("prefix", "places"), [
    ("", ["/opt/tidegate", "/usr/local/bin", "/usr/local/lib"]),
    ("/srv/tide", ["/srv/tide", "/usr/local/bin", "/usr/local/lib"]),
    ("/usr", ["/usr/lib/tidegate", "/usr/bin", "/usr/lib"]),
    ("/usr/local", ["/usr/local/lib/tidegate", "/usr/local/bin", "/usr/local/lib"])])
def test_prefix_says_where_things_go(prefix: str, places: list[str]) -> None:
    layout = install.Layout({"PREFIX": prefix})
    assert [str(path) for path in (layout.prefix, layout.bindir, layout.libdir)] == places


def test_uninstall_from_a_shared_prefix_takes_only_its_own(tmp_path: Path) -> None:
    neighbour = tmp_path / "usr/local/bin/other"
    neighbour.parent.mkdir(parents=True)
    neighbour.touch()
    (tmp_path / "srv/releases/mine").mkdir(parents=True)
    for prefix in ("/usr/local", "/usr", "/srv"):
        run_install("uninstall", DESTDIR=tmp_path, PREFIX=prefix)
    assert neighbour.exists()
    assert (tmp_path / "srv/releases/mine").exists()


@pytest.mark.parametrize(("device", "found"), [
    ("gpiochip0", True), ("gpiomem", True), ("gpiomem4", True), ("null", False)])
def test_gpio_is_found_on_every_pi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str,
                                   found: bool) -> None:
    monkeypatch.setattr(install_gpio, "DEV", tmp_path)
    (tmp_path / device).touch()
    assert install_gpio.wanted() is found


def test_gpio_comes_from_the_system_where_it_has_one_for_this_python(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(install_gpio, "SYSTEM", tmp_path / "system")
    packages = tmp_path / "env/lib/python3.13/site-packages"
    packages.mkdir(parents=True)
    (tmp_path / "system").mkdir()
    (tmp_path / "system/lgpio.py").touch()
    (tmp_path / "system/_lgpio.cpython-39-arm-linux-gnueabihf.so").touch()
    assert install_gpio.add(tmp_path / "env", ["false"]) == install_gpio.HINT
    (tmp_path / f"system/_lgpio{sysconfig.get_config_var('EXT_SUFFIX')}").touch()
    assert "lgpio.py" in install_gpio.add(tmp_path / "env", ["false"])
    assert (packages / "lgpio.py").resolve() == tmp_path / "system/lgpio.py"
    assert len(list(packages.iterdir())) == 2


def test_without_root_it_says_what_to_type(monkeypatch: pytest.MonkeyPatch,
                                           capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.delenv("DESTDIR", raising=False)
    monkeypatch.setenv("PREFIX", "/nowhere/tidegate")  # nothing to upgrade there, if it went on
    assert install.main(["upgrade"]) == 1
    assert capsys.readouterr().out == "install: error: needs root: sudo make upgrade\n"
