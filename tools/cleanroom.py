"""Try the project on a clean machine: clone, `make demo` and `make test` in a new Debian.

The root holds Debian's minimal base and git, make, python3 and sudo, nothing else. It runs in a
container (systemd-nspawn) with the network of this machine, once as root and once as a user with
sudo; whatever a run changes is thrown away after it. Mirrors, certificates and pip's settings are
taken from this machine, so that the container reaches the packages that this machine reaches.

Needs root, debootstrap and systemd-nspawn (Debian: debootstrap, systemd-container).
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tools import cachedir, debian

BASE = "git,make,python3,ca-certificates,sudo"
PROGRAMS = ("debootstrap", "systemd-nspawn", "git")
USER = "someone"
PASSED_ON = re.compile(
    r"(PIP_.*|.*_CA_BUNDLE|SSL_CERT_.*|https?_proxy|no_proxy|CI)", re.IGNORECASE
)
APT_SETTINGS = Path("/etc/apt/apt.conf.d")
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
CHECKOUT = "git clone -q -b main /tidegate.bundle tidegate && cd tidegate"


class CleanroomError(Exception):
    """The container could not be made."""


def say(line: str) -> None:
    """Print a line of progress."""
    print(f"cleanroom: {line}", flush=True)


def make_root(root: Path, suite: str) -> None:
    """Fill `root` with the minimal Debian, from this machine's own mirror."""
    mirror = debian.machine_sources()[0].uri
    say(f"Debian {suite} with {BASE}: debootstrap")
    done = subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={BASE}", suite, str(root), mirror],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise CleanroomError("debootstrap failed: " + "; ".join(done.stdout.splitlines()[-3:]))
    subprocess.run(["useradd", "-R", str(root), "-m", "-s", "/bin/bash", USER], check=True)
    sudoers = root / "etc" / "sudoers.d" / USER
    sudoers.write_text(f"{USER} ALL=(ALL) NOPASSWD: ALL\n")
    sudoers.chmod(0o440)


def machine_settings(root: Path) -> None:
    """Copy what this machine needs to reach its mirrors: apt's settings and certificates."""
    for file in sorted(APT_SETTINGS.iterdir()):
        if file.is_file() and "Acquire::" in file.read_text(errors="replace"):
            shutil.copy(file, root / APT_SETTINGS.relative_to("/") / file.name)
    if CERTIFICATES.exists():
        shutil.copy(CERTIFICATES, root / CERTIFICATES.relative_to("/"))


def pip_settings() -> dict[str, str]:
    """Return this machine's pip settings as environment variables."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"],
        capture_output=True,
        text=True,
        check=False,
    )
    settings = {}
    for line in done.stdout.splitlines():
        key, _, value = line.partition("=")
        scope, _, name = key.partition(".")
        if scope in ("global", "install", ":env:"):
            settings["PIP_" + name.replace("-", "_").upper()] = value.strip("'\"")
    return settings


def host_paths(settings: dict[str, str]) -> Iterator[str]:
    """Yield the folders of this machine that the settings speak of, for the container to see."""
    seen: set[str] = set()
    for value in settings.values():
        for word in value.replace("\\n", " ").split():
            path = Path(word.removeprefix("file://"))
            if path.is_absolute() and len(path.parts) > 2 and path.exists():
                top = str(Path(*path.parts[:3]))
                if top not in seen and not path.is_relative_to("/etc/ssl"):
                    seen.add(top)
                    yield top


def run_in(root: Path, bundle: Path, user: str, commands: str) -> int:
    """Run shell commands as `user` in a throw-away copy of the root; gives their exit code."""
    settings = {key: value for key, value in os.environ.items() if PASSED_ON.fullmatch(key)}
    settings |= pip_settings()
    home = "/root" if user == "root" else f"/home/{user}"
    argv = [
        "systemd-nspawn",
        "--quiet",
        "--register=no",
        "--keep-unit",
        "--pipe",
        "--volatile=overlay",
        f"--directory={root}",
        f"--user={user}",
        f"--chdir={home}",
        f"--bind-ro={bundle}:/tidegate.bundle",
        *(f"--bind-ro={path}" for path in host_paths(settings)),
        *(f"--setenv={key}={value}" for key, value in settings.items()),
        f"--setenv=HOME={home}",
    ]
    return subprocess.run(
        [*argv, "/bin/bash", "-ec", commands], stdin=subprocess.DEVNULL, check=False
    ).returncode


def main() -> int:
    """Run the cleanroom; gives the exit code."""
    parser = argparse.ArgumentParser(prog="make cleanroom", description=__doc__)
    parser.add_argument("--suite", default="bookworm", help="Debian suite")
    parser.add_argument("--user", choices=("root", USER), help="only this one")
    parser.add_argument(
        "--run", default="make demo && make test", help="what to run in the clone (shell)"
    )
    args = parser.parse_args()
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing or os.geteuid() != 0:
        say(f"needs root and {', '.join(PROGRAMS)}; missing: {', '.join(missing) or 'root'}")
        return 2
    try:
        root = cachedir.once(f"cleanroom-{args.suite}", lambda at: make_root(at, args.suite))
    except (CleanroomError, debian.FetchError) as error:
        say(f"error: {error}")
        return 2
    machine_settings(root)
    bundle = cachedir.root() / "cleanroom.bundle"
    project = Path(__file__).resolve().parent.parent
    subprocess.run(
        ["git", "-C", str(project), "bundle", "create", "-q", str(bundle), "HEAD", "main"],
        check=True,
    )
    for user in [args.user] if args.user else ["root", USER]:
        say(f"as {user}: git clone, {args.run}")
        start = time.monotonic()
        code = run_in(root, bundle, user, f"{CHECKOUT} && {args.run}")
        ended = "ok" if code == 0 else f"FAILED ({code})"
        say(f"as {user}: {ended} after {time.monotonic() - start:.0f} s")
        if code != 0:
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
