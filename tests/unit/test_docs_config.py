"""docs/config.md names every setting with its default."""

from __future__ import annotations

import re
from pathlib import Path

import msgspec
import pytest

from gateway.config import BrokerConfig, Config, ListenerConfig, OutboxConfig, UpstreamConfig
from gateway.exposure import PanelConfig
from gateway.relay import RelayConfig
from gateway.routes import Route

TEXT = (Path(__file__).parents[2] / "docs" / "config.md").read_text()


def rows() -> dict[str, str]:
    """First cell → second cell of every table row; a cell may name several settings."""
    found = {}
    for line in TEXT.splitlines():
        cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)]
        if len(cells) > 3 and cells[1].startswith("`"):
            for name in re.findall(r"`([a-z_0-9]+)`", cells[1]):
                found.setdefault(name, cells[2])
    return found


@pytest.mark.parametrize("kind", [ListenerConfig, OutboxConfig, UpstreamConfig, Route, Config,
                                  BrokerConfig, PanelConfig, RelayConfig])
def test_every_setting_is_documented_with_its_default(kind: type[msgspec.Struct]) -> None:
    documented = rows()
    for item in msgspec.structs.fields(kind):
        if item.name in ("listener", "outbox", "upstream", "broker", "route", "filters", "relay"):
            assert f"[{item.name}]" in TEXT or f".{item.name}`" in TEXT or item.name == "filters"
            continue
        assert item.name in documented, f"{item.name} is missing in docs/config.md"
        default = documented[item.name].strip("`")
        if isinstance(item.default, bool | int | float):
            said = default.lower() if isinstance(item.default, bool) else float(default)
            meant = str(item.default).lower() if isinstance(item.default, bool) else item.default
            assert said == meant, f"{item.name}: documented {default}, is {item.default}"
        elif isinstance(item.default, str) and item.name != "client_id":
            assert default == f'"{item.default}"', f"{item.name}: documented {default}"
