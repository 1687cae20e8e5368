"""The GPIO library for an installed gateway: lgpio, which gpiozero's panel uses on every Pi.

It is a binding in C, and PyPI has no wheel of it for each Python (none for 3.13, which Raspberry
Pi OS has now). That system brings lgpio itself, python3-lgpio; its two files are linked into the
virtual environment. A gateway without it works; its panel says so. Standard library alone.
"""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path

SYSTEM = Path("/usr/lib/python3/dist-packages")
DEV = Path("/dev")
HINT = ("a [panel] will need `sudo apt install python3-lgpio` and then `sudo make upgrade`: "
        "there is no lgpio for this Python yet")


def wanted() -> bool:
    """Whether this machine has GPIO. A Pi 5 has no /dev/gpiomem."""
    return any(DEV.glob("gpiochip*")) or any(DEV.glob("gpiomem*"))


def system_files() -> list[Path]:
    """The system's lgpio for this Python, module and library; empty where there is none."""
    suffix = sysconfig.get_config_var("EXT_SUFFIX")
    files = [SYSTEM / "lgpio.py", SYSTEM / f"_lgpio{suffix}"]
    return files if all(path.exists() for path in files) else []


def add(environment: Path, pip_install: list[str]) -> str:
    """Give a virtual environment lgpio; returns a line that says from where, or what to do."""
    found = system_files()
    if found:
        packages = next((environment / "lib").glob("python3*")) / "site-packages"
        for path in found:
            (packages / path.name).symlink_to(path)
        return f"GPIO by the system's {found[0]}"
    done = subprocess.run([*pip_install, "--only-binary", "lgpio", "lgpio>=0.2.2"],
                          capture_output=True, check=False)
    return HINT if done.returncode else "GPIO by PyPI's lgpio"
