"""Install the gateway as a service: `sudo make install`, `upgrade`, `uninstall`.

    PREFIX/releases/<version>-<n>   a virtual environment each, made whole before it is used
    PREFIX/current                  a link to the one in force, changed in one rename
    BINDIR/tidegate                 a link to its command line
    SYSCONFDIR/tidegate             tidegate.toml and credentials, never overwritten
    LIBDIR/systemd, sysusers.d, tmpfiles.d   unit, user, owners

PREFIX is a folder of its own, /opt/tidegate where nothing is said; with /usr or /usr/local it is
lib/tidegate below that, and bin and lib/systemd are its neighbours. DESTDIR goes in front of
everything and nothing of the running system is touched then, so that a package or an image can be
made of it. Runs on the machine's own Python, standard library alone.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
import venv
from pathlib import Path

from tools import install_gpio, setup

SOURCE = Path(__file__).resolve().parent.parent
KEPT = 2  # releases, the one in force included
UNIT = "tidegate.service"
USUAL = (Path("/usr"), Path("/usr/local"))


class InstallError(Exception):
    """It cannot be done; the text says why, in one line."""


def say(line: str) -> None:
    """Print a line of progress."""
    print(f"install: {line}", flush=True)


class Layout:
    """Where everything goes. Paths as the installed system sees them; `at` puts DESTDIR before."""

    def __init__(self, env: dict[str, str]) -> None:
        self.destdir = env.get("DESTDIR", "")
        prefix = Path(env.get("PREFIX") or "/opt/tidegate")
        usual = prefix if prefix in USUAL else Path("/usr/local")
        self.prefix = prefix / "lib" / "tidegate" if prefix in USUAL else prefix
        self.bindir = Path(env.get("BINDIR") or usual / "bin")
        self.libdir = Path(env.get("LIBDIR") or usual / "lib")
        self.sysconfdir = Path(env.get("SYSCONFDIR") or "/etc")
        self.extras = env.get("EXTRAS", "certs")
        for path in (self.prefix, self.bindir, self.libdir, self.sysconfdir):
            if not path.is_absolute():
                raise InstallError(f"{path}: has to be an absolute path")

    def at(self, path: Path) -> Path:
        """Where a path of the installed system is now."""
        return Path(self.destdir + str(path))

    @property
    def live(self) -> bool:
        """Whether this is the running system, with its systemd."""
        return not self.destdir and Path("/run/systemd/system").is_dir()

    def fill(self, text: str) -> str:
        """Put the paths into a file of gateway/system."""
        return (text.replace("@PREFIX@", str(self.prefix))
                .replace("@SYSCONFDIR@", str(self.sysconfdir)))


    def releases(self) -> list[Path]:
        """Ours, as they are now, the oldest first; nothing else that lies there."""
        folder = self.at(self.prefix / "releases")
        found = folder.glob("*/bin/tidegate") if folder.is_dir() else []
        return sorted((path.parents[1] for path in found), key=lambda path: path.stat().st_mtime)


def call(*argv: str | Path, cwd: Path | None = None) -> None:
    """Run a command; InstallError where it fails."""
    if subprocess.run([str(word) for word in argv], cwd=cwd, check=False).returncode:
        raise InstallError(f"{Path(argv[0]).name} failed; its words are above")


def _pip() -> str:
    """A pip that runs from its wheel: Debian's, where python3-venv is installed, or another."""
    found = sorted(Path("/usr/share/python-wheels").glob("pip-*.whl"))
    return str(found[-1] / "pip") if found else setup.bundled_pip()[1]


def make_release(layout: Layout) -> Path:
    """Build a wheel and a virtual environment with it; returns the environment's place."""
    version = tomllib.loads((SOURCE / "pyproject.toml").read_text())["project"]["version"]
    releases = layout.prefix / "releases"
    layout.at(releases).mkdir(parents=True, exist_ok=True)
    numbers = [int(found[1]) for path in layout.at(releases).iterdir()
               if (found := re.fullmatch(r".*-(\d+)", path.name))]
    release = releases / f"{version}-{max(numbers, default=0) + 1}"
    here = layout.at(release)
    say(f"virtual environment {release} (Python {sys.version.split()[0]})")
    try:
        venv.EnvBuilder(symlinks=True, with_pip=False).create(here)
        python = here / "bin" / "python"
        with tempfile.TemporaryDirectory(prefix="tidegate-build-") as folder:
            build = Path(folder)  # so that nothing is written into the source
            os.environ["TIDEGATE_CACHE"] = str(build / "cache")
            pip = [str(python), _pip()]
            for name in ("pyproject.toml", "README.md", "constraints.txt"):
                shutil.copy(SOURCE / name, build)
            for name in ("gateway", "tools"):
                shutil.copytree(SOURCE / name, build / name,
                                ignore=shutil.ignore_patterns("__pycache__"))
            extras = f"[{layout.extras}]" if layout.extras else ""
            say("the gateway and what it needs, at the versions of constraints.txt")
            pip += ["install", "--quiet", "--no-warn-script-location", "--no-compile",
                    "-c", str(build / "constraints.txt")]
            call(*pip, f"{build}{extras}")
            if install_gpio.wanted():
                say(install_gpio.add(here, pip))
        _settle(layout, release)
    except BaseException:
        shutil.rmtree(here, ignore_errors=True)
        raise
    return release


def _settle(layout: Layout, release: Path) -> None:
    """Make an environment that was built under DESTDIR right for its own place."""
    here = layout.at(release)
    for script in (here / "bin").iterdir():
        if not script.is_symlink() and script.name != "tidegate":
            script.unlink()
    command = here / "bin" / "tidegate"
    command.write_text(f"#!{release}/bin/python\nfrom gateway.cli import main\n\nmain()\n")
    command.chmod(0o755)
    config = here / "pyvenv.cfg"
    config.write_text("".join(line + "\n" for line in config.read_text().splitlines()
                              if not line.startswith("command")))
    call(here / "bin" / "python", "-m", "compileall", "-q", "-j0",
         "-s", here, "-p", release, here / "lib")


def switch(layout: Layout, release: Path) -> None:
    """Make a release the one in force, and forget all but the last KEPT."""
    link = layout.prefix / "current"
    new = layout.at(layout.prefix / ".current")
    new.unlink(missing_ok=True)
    new.symlink_to(release)
    new.rename(layout.at(link))
    others = [path for path in layout.releases() if path.name != release.name]
    for path in others[:len(others) - KEPT + 1]:
        shutil.rmtree(path)
    command = layout.at(layout.bindir / "tidegate")
    command.parent.mkdir(parents=True, exist_ok=True)
    command.unlink(missing_ok=True)
    command.symlink_to(link / "bin" / "tidegate")


def files(layout: Layout) -> dict[Path, str]:
    """What is put there anew each time: path → name in gateway/system."""
    lib = layout.libdir
    return {lib / "systemd" / "system" / UNIT: "tidegate.service",
            lib / "sysusers.d" / "tidegate.conf": "sysusers.conf",
            lib / "tmpfiles.d" / "tidegate.conf": "tmpfiles.conf"}


def place(layout: Layout) -> None:
    """Put unit, user, owners, and (where there is none) the config."""
    system = SOURCE / "gateway" / "system"
    for path, name in files(layout).items():
        layout.at(path).parent.mkdir(parents=True, exist_ok=True)
        layout.at(path).write_text(layout.fill((system / name).read_text()))
    folder = layout.at(layout.sysconfdir / "tidegate")
    folder.mkdir(mode=0o750, parents=True, exist_ok=True)
    for name, text in (("tidegate.toml", (system / "tidegate.toml").read_text()),
                       ("credentials", "")):
        if (folder / name).exists():
            say(f"{layout.sysconfdir}/tidegate/{name}: kept as it is")
            continue
        with os.fdopen(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o640),
                       "w") as out:
            out.write(text)


def start(layout: Layout) -> None:
    """Restart the service; InstallError, with its own last word, where it does not come up."""
    began_s = int(time.time())
    if subprocess.run(["systemctl", "restart", UNIT], capture_output=True, check=False).returncode:
        said = subprocess.run(
            ["journalctl", "--unit", UNIT, "--output", "cat", f"--since=@{began_s}", "--no-pager"],
            capture_output=True, text=True, check=False).stdout
        why = [line for line in said.splitlines() if line.startswith("tidegate: ")]
        raise InstallError("installed, but it does not start: "
                           f"{why[-1] if why else 'journalctl -u tidegate says why'}; mend it in "
                           f"{layout.sysconfdir}/tidegate/tidegate.toml, then systemctl restart "
                           "tidegate")


def install(layout: Layout, *, upgrade: bool) -> None:
    """Put a new release beside the old one, then switch and restart."""
    if upgrade and not layout.at(layout.prefix / "current").is_symlink():
        raise InstallError(f"nothing to upgrade in {layout.prefix}; make install")
    release = make_release(layout)
    place(layout)
    if not layout.destdir:
        call("systemd-sysusers", layout.libdir / "sysusers.d" / "tidegate.conf")
        call("systemd-tmpfiles", "--create", layout.libdir / "tmpfiles.d" / "tidegate.conf")
    switch(layout, release)
    if layout.destdir:
        say(f"done in {layout.destdir}; user and owners come with its first boot, and "
            f"`systemctl --root={layout.destdir} enable {UNIT}` makes that boot start it")
        return
    call("systemctl", "enable", "--quiet", UNIT)
    if layout.live:
        call("systemctl", "daemon-reload")
        start(layout)
        say("running; `systemctl status tidegate` and `tidegate status` say how it is")
    say(f"settings: {layout.sysconfdir}/tidegate/tidegate.toml")


def uninstall(layout: Layout, *, purge: bool) -> None:
    """Take away all but config and outbox; with purge those too."""
    if layout.live:
        subprocess.run(["systemctl", "disable", "--quiet", "--now", UNIT], check=False)
    elif not layout.destdir:
        subprocess.run(["systemctl", "disable", "--quiet", UNIT], check=False)
    for path in files(layout):
        layout.at(path).unlink(missing_ok=True)
    layout.at(layout.bindir / "tidegate").unlink(missing_ok=True)
    for path in layout.releases():
        shutil.rmtree(path)
    layout.at(layout.prefix / "current").unlink(missing_ok=True)
    for path in (layout.prefix / "releases", layout.prefix):
        if layout.at(path).is_dir() and not any(layout.at(path).iterdir()):
            layout.at(path).rmdir()
    if layout.live:
        call("systemctl", "daemon-reload")
    kept = [layout.sysconfdir / "tidegate", Path("/var/lib/tidegate")]
    for path in kept:
        if purge:
            shutil.rmtree(layout.at(path), ignore_errors=True)
        elif layout.at(path).exists():
            say(f"{path}: kept (PURGE=1 removes it)")


def main(argv: list[str]) -> int:
    """Run one of the three verbs; returns the exit code."""
    os.umask(0o022)  # the service's user has to read it, whatever the caller's umask is
    try:
        layout = Layout(dict(os.environ))
        if not layout.destdir and os.geteuid() != 0:
            raise InstallError(f"needs root: sudo make {' '.join(argv)}")
        if argv == ["uninstall"]:
            uninstall(layout, purge=os.environ.get("PURGE") == "1")
        elif argv in (["install"], ["upgrade"]):
            install(layout, upgrade=argv == ["upgrade"])
        else:
            raise InstallError("install, upgrade or uninstall")
    except (InstallError, setup.SetupError, OSError) as error:
        say(f"error: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
