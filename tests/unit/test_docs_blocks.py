"""Every block of gateway settings in the docs is a config that `tidegate run --check` takes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from gateway.cli import cli

PROJECT = Path(__file__).parents[2]
FILES = ["README.md", *(f"docs/{name}.md" for name in (
    "broker", "config", "operations", "pi", "security", "upstreams"))]


def blocks() -> list[tuple[str, str]]:
    """Name and text of each, as it stands and with its commented settings put in."""
    found = []
    for name in FILES:
        parts = re.findall(r"```toml\n(.*?)```", (PROJECT / name).read_text(), re.DOTALL)
        for number, text in enumerate(parts, 1):
            found.append((f"{name}:{number}", text))
            if re.search(r"^# \w+ = ", text, re.MULTILINE):
                found.append((f"{name}:{number}:all", re.sub(r"(?m)^# (\w+ = )", r"\1", text)))
    return found


@pytest.mark.parametrize(("name", "text"), [pytest.param(*b, id=b[0]) for b in blocks()])
def test_documented_settings_are_taken(name: str, text: str, tmp_path: Path,
                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    for file in re.findall(r'^(?:\w+_file|credentials) = "([^":]+)"', text, re.MULTILINE):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    if "[upstream]" not in text:  # a part of a config; the rest says where everything goes
        text += '\n[upstream]\nurl = "mqtt://broker.example"\n'
    (tmp_path / "tidegate.toml").write_text(text)
    done = CliRunner().invoke(cli, ["run", "--check", "-c", str(tmp_path / "tidegate.toml")])
    assert done.exit_code == 0, done.exception or done.output
    assert done.output.endswith("tidegate.toml: ok\n")


def test_there_are_blocks_for_the_brokers_that_the_docs_name() -> None:
    names = [name for name, _ in blocks()]
    assert len([name for name in names if name.startswith("docs/upstreams.md")]) >= 3
    text = (PROJECT / "docs" / "upstreams.md").read_text()
    assert "EMQX" in text
    assert re.search(r"EMQX[^.]*was\s+not run here", text)
