"""Debian packages unpacked beside the host: fetched by apt, installed nowhere.

apt runs with lists, cache, status file and source list of its own, so it needs no root and
the host's packages stay as they are. The source list is made from the machine's own (mirrors,
keys and proxies included) with the suite replaced. A program then runs through the unpacked
tree's own dynamic linker and libraries:

    tree = fetch("mosquitto", ["mosquitto"], suite="sid")
    subprocess.run([*tree.program("mosquitto"), "-h"])
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tools import cachedir
from tools.cachedir import Say, silent

SOURCE_FOLDERS = (Path("/etc/apt/sources.list"), Path("/etc/apt/sources.list.d"))
GENERIC_SUITES = frozenset({"stable", "oldstable", "testing", "unstable", "sid"})
APT_LIMIT_S = 600


class FetchError(RuntimeError):
    """Packages could not be fetched or unpacked."""


@dataclass(frozen=True)
class Source:
    """One archive of the machine's source list, suite left out.

    signed_by: the key field as it stood, "" where there was none.
    """

    uri: str
    signed_by: str = ""
    trusted: str = ""

    def deb822(self, suite: str, architecture: str) -> str:
        """Give the paragraph that asks this archive for `suite`."""
        lines = [
            "Types: deb",
            f"URIs: {self.uri}",
            f"Suites: {suite}",
            "Components: main",
            f"Architectures: {architecture}",
        ]
        if self.signed_by:
            lines.append(f"Signed-By: {self.signed_by}")
        if self.trusted:
            lines.append(f"Trusted: {self.trusted}")
        return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Tree:
    """Packages unpacked in `root`, with their own linker and libraries."""

    root: Path

    @property
    def linker(self) -> Path:
        """Give the tree's own dynamic linker."""
        for found in sorted(self.root.glob("usr/lib*/**/ld-linux*.so.*")) + sorted(
            self.root.glob("lib*/**/ld-linux*.so.*")
        ):
            if found.is_file() and not found.is_symlink():
                return found
        raise FetchError(f"{self.root}: holds no dynamic linker")

    @property
    def library_path(self) -> str:
        """Give the folders with the tree's shared libraries, as the linker wants them."""
        folders = {
            lib.parent
            for start in ("usr/lib", "lib")
            for depth in ("*.so*", "*/*.so*")
            for lib in self.root.glob(f"{start}/{depth}")
        }
        return ":".join(str(folder) for folder in sorted(folders))

    def find(self, name: str) -> Path:
        """Give the program `name` of the tree; FetchError where there is none."""
        for folder in ("usr/bin", "usr/sbin", "bin", "sbin"):
            path = self.root / folder / name
            if path.is_file():
                return path
        raise FetchError(f"{self.root}: holds no program {name}")

    def program(self, name: str) -> list[str]:
        """Give the start of a command line that runs the program `name` of the tree."""
        return [str(self.linker), "--library-path", self.library_path, str(self.find(name))]


def os_release() -> dict[str, str]:
    """Read what system this is."""
    try:
        text = Path("/etc/os-release").read_text()
    except OSError:
        return {}
    pairs = (line.partition("=") for line in text.splitlines())
    return {key: value.strip("\"'") for key, sep, value in pairs if sep}


def native_architecture() -> str:
    """Ask dpkg for this machine's architecture: amd64, arm64, armhf, i386."""
    try:
        run = subprocess.run(
            ["dpkg", "--print-architecture"], capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise FetchError(f"dpkg is needed to unpack Debian packages: {error}") from error
    return run.stdout.strip()


def parse_one_line(text: str) -> list[tuple[Source, str, list[str]]]:
    """Read a `.list` file; gives (archive, suite, components) for each binary entry."""
    entries = []
    for raw in text.splitlines():
        line = raw.split("#", 1)[0].strip()
        if not line.startswith("deb ") and not line.startswith("deb\t"):
            continue
        rest = line[3:].strip()
        options: dict[str, str] = {}
        if rest.startswith("["):
            inside, _, rest = rest[1:].partition("]")
            options = {
                key.lower(): value
                for key, _, value in (option.partition("=") for option in inside.split())
            }
        words = rest.split()
        if len(words) < 3:
            continue
        source = Source(words[0], options.get("signed-by", ""), options.get("trusted", ""))
        entries.append((source, words[1], words[2:]))
    return entries


def parse_deb822(text: str) -> list[tuple[Source, str, list[str]]]:
    """Read a `.sources` file; gives (archive, suite, components) for each one named."""
    entries = []
    kept = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for paragraph in kept.split("\n\n"):
        fields: dict[str, str] = {}
        key = ""
        for line in paragraph.splitlines():
            if line[:1] in (" ", "\t"):
                fields[key] = fields.get(key, "") + "\n" + line
            elif ":" in line:
                key, _, value = line.partition(":")
                key = key.strip().lower()
                fields[key] = value.strip()
        if "deb" not in fields.get("types", "").split():
            continue
        if fields.get("enabled", "yes").lower() in ("no", "false", "0"):
            continue
        for uri in fields.get("uris", "").split():
            source = Source(uri, fields.get("signed-by", ""), fields.get("trusted", ""))
            entries += [
                (source, suite, fields.get("components", "").split())
                for suite in fields.get("suites", "").split()
            ]
    return entries


def machine_sources(paths: Sequence[Path] = SOURCE_FOLDERS) -> list[Source]:
    """Find the machine's archives of the distribution itself: main, and no updates suite."""
    files = [
        file
        for path in paths
        for file in (sorted(path.iterdir()) if path.is_dir() else [path])
        if file.is_file() and file.suffix in (".list", ".sources")
    ]
    suites = GENERIC_SUITES | {os_release().get("VERSION_CODENAME", "")}
    found: dict[Source, None] = {}
    for file in files:
        parse = parse_deb822 if file.suffix == ".sources" else parse_one_line
        for source, suite, components in parse(file.read_text(errors="replace")):
            if suite in suites and "main" in components:
                found[source] = None
    if not found:
        raise FetchError("the machine's apt source list names no Debian archive")
    return list(found)


def _apt(work: Path, architecture: str) -> list[str]:
    """Give apt-get with nothing of the host's but its settings (proxies) and its keys."""
    options = {
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Install-Recommends": "false",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Acquire::Retries": "3",
        "Dir::Cache": f"{work}/cache",
        "Dir::Etc::sourcelist": "/dev/null",
        "Dir::Etc::sourceparts": f"{work}/sources",
        "Dir::Etc::preferences": "/dev/null",
        "Dir::Etc::preferencesparts": f"{work}/none",
        "Dir::Log": f"{work}/log",
        "Dir::State": f"{work}/state",
        "Dir::State::lists": f"{work}/lists",
        "Dir::State::status": f"{work}/status",
        "Dir::State::extended_states": f"{work}/extended_states",
        "Debug::NoLocking": "true",
    }
    return ["apt-get", "-q", "-y", *(f"-o{key}={value}" for key, value in options.items())]


def _run(command: list[str], what: str) -> tuple[bool, str]:
    """Run a command; gives whether it worked and what it said."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            timeout=APT_LIMIT_S,
        )
    except OSError as error:
        raise FetchError(f"{what}: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise FetchError(f"{what}: no end after {APT_LIMIT_S} s") from error
    return done.returncode == 0, done.stdout


def _reason(output: str) -> str:
    """Pick the line of apt's output that says why."""
    lines = [line for line in output.splitlines() if line.startswith(("E:", "Err:"))]
    return lines[0] if lines else (output.strip().splitlines() or ["no reason given"])[-1]


def _fill(tree: Path, packages: Sequence[str], suite: str, architecture: str, say: Say) -> None:
    """Fetch the packages with all they depend on and unpack them into `tree`."""
    work = tree / ".apt"
    for folder in ("cache/archives/partial", "lists/partial", "sources", "none", "log", "state"):
        (work / folder).mkdir(parents=True)
    (work / "status").touch()
    (work / "sources" / "tidegate.sources").write_text(
        "\n".join(source.deb822(suite, architecture) for source in machine_sources())
    )
    apt = _apt(work, architecture)
    say(f"fetching {' '.join(packages)} ({suite}, {architecture}): package lists")
    _, updated = _run([*apt, "update"], "apt-get update")
    say(f"fetching {' '.join(packages)} ({suite}, {architecture}): packages")
    worked, output = _run([*apt, "install", "--download-only", *packages], "apt-get install")
    if not worked:
        why = _reason(updated) if "E:" in updated else _reason(output)
        raise FetchError(f"cannot fetch {' '.join(packages)} from {suite}: {why}")
    debs = sorted((work / "cache" / "archives").glob("*.deb"))
    say(f"unpacking {len(debs)} packages")
    for deb in debs:
        worked, output = _run(["dpkg", "-x", str(deb), str(tree)], f"unpacking {deb.name}")
        if not worked:
            raise FetchError(f"cannot unpack {deb.name}: {_reason(output)}")
    shutil.rmtree(work)


def _folder(name: str, packages: Sequence[str], suite: str, architecture: str) -> str:
    """Name the cache's folder for these packages."""
    key = hashlib.sha256(" ".join(sorted(packages)).encode()).hexdigest()[:8]
    return f"{name}-{suite}-{architecture}-{key}"


def cached(
    name: str, packages: Sequence[str], *, suite: str, architecture: str | None = None
) -> Tree | None:
    """Give the packages where an earlier `fetch` left them, or None; asks no archive."""
    folder = _folder(name, packages, suite, architecture or native_architecture())
    return Tree(cachedir.root() / folder) if (cachedir.root() / folder).is_dir() else None


def fetch(
    name: str,
    packages: Sequence[str],
    *,
    suite: str,
    architecture: str | None = None,
    say: Say = silent,
) -> Tree:
    """Give the packages, with all they need, unpacked in the project's cache.

    name: begins the folder's name; architecture: dpkg's word, the machine's own by default;
    say: gets progress lines. Fast when it is there already. Raises FetchError.
    """
    architecture = architecture or native_architecture()

    def fill(work: Path) -> None:
        _fill(work, packages, suite, architecture, say)

    return Tree(cachedir.once(_folder(name, packages, suite, architecture), fill))
