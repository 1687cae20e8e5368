"""Fetching packages privately: from whatever the source list says, whole or not at all."""

from __future__ import annotations

import subprocess
import threading
from pathlib import Path

import pytest

from tools import cachedir, debian, interpreter
from tools.debian import FetchError, Source

ONE_LINE = """
# deb http://example.org/debian old main
deb http://example.org/debian bookworm main contrib
deb [signed-by=/usr/share/keyrings/a.gpg arch=arm64] http://example.org/raspbian bookworm main
deb-src http://example.org/debian bookworm main
deb http://example.org/debian bookworm-updates main
deb http://example.org/tool stable stable
deb\thttp://example.org/tabs bookworm main # a remark
deb broken
"""
DEB822 = """
# a remark
Types: deb deb-src
URIs: http://example.org/debian http://example.net/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian.gpg

Types: deb
URIs: http://example.org/other
Suites: bookworm
Components: main
Enabled: no

Types: deb
URIs: http://example.org/inline
Suites: bookworm
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
 -----END PGP PUBLIC KEY BLOCK-----

Types: deb
URIs: http://example.org/node
Suites: nodistro
Components: main
"""


def test_one_line_sources_are_read() -> None:
    found = debian.parse_one_line(ONE_LINE)
    assert [(source.uri, suite) for source, suite, _ in found] == [
        ("http://example.org/debian", "bookworm"),
        ("http://example.org/raspbian", "bookworm"),
        ("http://example.org/debian", "bookworm-updates"),
        ("http://example.org/tool", "stable"),
        ("http://example.org/tabs", "bookworm"),
    ]
    assert found[1][0].signed_by == "/usr/share/keyrings/a.gpg"
    assert found[0][2] == ["main", "contrib"]


def test_deb822_sources_are_read() -> None:
    found = debian.parse_deb822(DEB822)
    assert [(source.uri, suite) for source, suite, _ in found] == [
        ("http://example.org/debian", "bookworm"),
        ("http://example.org/debian", "bookworm-updates"),
        ("http://example.net/debian", "bookworm"),
        ("http://example.net/debian", "bookworm-updates"),
        ("http://example.org/inline", "bookworm"),
        ("http://example.org/node", "nodistro"),
    ]
    assert found[0][0].signed_by == "/usr/share/keyrings/debian.gpg"
    assert "BEGIN PGP" in found[4][0].signed_by


def test_only_the_distribution_s_own_archives_are_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(debian, "os_release", lambda: {"VERSION_CODENAME": "bookworm"})
    (tmp_path / "a.list").write_text(ONE_LINE)
    (tmp_path / "b.sources").write_text(DEB822)
    (tmp_path / "c.list.disabled").write_text("deb http://example.org/no bookworm main")
    uris = [source.uri for source in debian.machine_sources([tmp_path])]
    assert uris == [
        "http://example.org/debian",
        "http://example.org/raspbian",
        "http://example.org/tabs",
        "http://example.org/debian",
        "http://example.net/debian",
        "http://example.org/inline",
    ]
    (tmp_path / "none").mkdir()
    with pytest.raises(FetchError, match="names no Debian archive"):
        debian.machine_sources([tmp_path / "none"])


def test_source_asks_for_another_suite() -> None:
    text = Source("http://example.org/debian", "/key.gpg").deb822("sid", "i386")
    assert "Suites: sid\n" in text
    assert "Architectures: i386\n" in text
    again = debian.parse_deb822(text)
    assert again == [(Source("http://example.org/debian", "/key.gpg"), "sid", ["main"])]


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TIDEGATE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_what_was_broken_off_is_never_taken_for_whole(own_cache: Path) -> None:
    def breaks(folder: Path) -> None:
        (folder / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cachedir.once("thing", breaks)
    assert not (own_cache / "thing").exists()
    assert not list(own_cache.glob("thing.part-*"))
    made = cachedir.once("thing", lambda folder: (folder / "whole").touch())
    assert [path.name for path in made.iterdir()] == ["whole"]


def test_two_at_once_make_it_once(own_cache: Path) -> None:
    began, made = threading.Barrier(2), []

    def make(folder: Path) -> None:
        made.append(folder)

    def run() -> None:
        began.wait(10)
        cachedir.once("thing", make)

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(made) == 1


def test_archive_that_cannot_be_reached_is_told_in_one_line(
    own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nowhere = Source("file:///nowhere/debian", trusted="yes")
    monkeypatch.setattr(debian, "machine_sources", lambda: [nowhere])
    with pytest.raises(FetchError, match="cannot fetch hello from sid") as caught:
        debian.fetch("hello", ["hello"], suite="sid", architecture="amd64")
    assert "\n" not in str(caught.value)
    assert [path.suffix for path in own_cache.iterdir()] == [".lock"]
    assert debian.cached("hello", ["hello"], suite="sid", architecture="amd64") is None


def test_interpreter_has_the_board_s_word_size_or_says_otherwise() -> None:
    found = interpreter.obtain()
    said = subprocess.run(
        [*found.command, "-c", "import sys; print(sys.maxsize > 1 << 32)"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert said.stdout.strip() == str(found.bits == 64)
    total = "import gc; print(gc.mem_alloc() + gc.mem_free())"
    size = subprocess.run(
        [*found.command, *found.heap_option(64), "-c", total],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert 60_000 < int(size.stdout) * 32 / found.bits < 65_537


def test_umqtt_is_the_one_that_needs_no_frozen_modules() -> None:
    text = (interpreter.umqtt_simple() / "umqtt" / "simple.py").read_text()
    assert "class MQTTClient" in text
