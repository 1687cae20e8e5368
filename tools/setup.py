"""Make the project's virtual environment: `python3 -m tools.setup`, also where pip is missing.

Runs on the machine's own Python with the standard library alone. Debian ships Python without
`ensurepip`; rather than installing python3-venv on the host, Debian's pip is unpacked into the
project's cache and used once, to install pip and everything else into `.venv`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from tools import debian

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"


class SetupError(Exception):
    """The virtual environment could not be made."""


def say(line: str) -> None:
    """Print a line of progress."""
    print(f"setup: {line}", flush=True)


def has_pip() -> bool:
    """Tell whether the virtual environment is there and has a pip that works."""
    if not PYTHON.exists():
        return False
    probe = [str(PYTHON), "-m", "pip", "--version"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def bundled_pip() -> list[str]:
    """Return the command that runs a pip for the virtual environment, which has none itself."""
    try:
        import ensurepip

        wheels = Path(ensurepip.__file__).parent / "_bundled"
    except ImportError:
        wheels = None
    if wheels is None or not list(wheels.glob("pip-*.whl")):
        say("this Python has no pip; Debian's is unpacked into .cache (nothing gets installed)")
        suite = debian.os_release().get("VERSION_CODENAME", "")
        tree = debian.fetch("pip", ["python3-pip-whl"], suite=suite, say=say)
        wheels = tree.root / "usr" / "share" / "python-wheels"
    found = sorted(wheels.glob("pip-*.whl"))
    if not found:
        raise SetupError(f"no pip in {wheels}")
    return [str(PYTHON), str(found[-1] / "pip")]


def make_venv() -> None:
    """Make `.venv` with the project and its tools in it."""
    if not PYTHON.exists():
        say(f"virtual environment .venv (Python {sysconfig.get_python_version()})")
        venv.EnvBuilder(symlinks=True, with_pip=False).create(VENV)
    pip = [str(PYTHON), "-m", "pip"] if has_pip() else bundled_pip()
    say("Python packages of pyproject.toml at the versions of constraints.txt, into .venv")
    install = ["install", "--quiet", "--upgrade", "--constraint", "constraints.txt"]
    progress = ["--progress-bar", "on" if sys.stdout.isatty() else "off"]
    what = ["pip", "--editable", ".[tools,test]"]
    done = subprocess.run(
        [*pip, *install, *progress, *what],
        cwd=ROOT,
        env={**os.environ, "PIP_ROOT_USER_ACTION": "ignore"},
        check=False,
    )
    if done.returncode != 0:
        raise SetupError("pip failed; its words are above")
    say("Python packages are there")


def main() -> int:
    """Make the virtual environment; gives the exit code."""
    try:
        make_venv()
    except (SetupError, debian.FetchError, OSError) as error:
        print(f"setup: error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
