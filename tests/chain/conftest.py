"""The stand-in for EMQX, once for all of its tests, with EMQX's defaults before each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict

import pytest
from emqx_peer import Peer

from tools.emqx.process import Emqx
from tools.emqx.settings import Settings


@pytest.fixture(scope="module")
def emqx_process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emqx]:
    with Emqx(tmp_path_factory.mktemp("emqx")) as running:
        yield running


@pytest.fixture
def emqx(emqx_process: Emqx) -> Emqx:
    emqx_process.set(**asdict(Settings()))
    emqx_process.order("forget", client="")
    return emqx_process


@pytest.fixture(params=[4, 5], ids=["3.1.1", "5"])
def v(request: pytest.FixtureRequest) -> int:
    """Both versions of MQTT; 4 is what 3.1.1 calls itself."""
    version: int = request.param
    return version


@pytest.fixture
def watcher(emqx: Emqx) -> Iterator[Peer]:
    """Has subscribed to `x/#` at QoS 2."""
    with Peer(emqx.port, 5) as peer:
        peer.hello("watcher", clean=True, expiry_s=0)
        assert peer.subscribe("x/#") == 2
        yield peer
