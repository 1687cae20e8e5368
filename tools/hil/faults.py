"""The faults a scenario can name. To add one: a row in FAULTS."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from tools import proxy_link
from tools.hil.carriers import Tidegate, pause
from tools.hil.scenario import Fault

if TYPE_CHECKING:
    from tools.hil.site import Site

Act = Callable[["Site", Fault], Awaitable[None]]


class FaultError(Exception):
    """A fault could not be done; the run is INVALID."""


@dataclass(frozen=True)
class Kind:
    """What begins a fault and what takes it back; what: in the words of a report.

    breaks_devices: whether devices may lose their connections by it.
    """

    what: str
    begin: Act
    end: Act | None
    breaks_devices: bool = False


async def _upstream_stop(site: Site, fault: Fault) -> None:
    await site.in_thread(site.upstream.stop)


async def _upstream_kill(site: Site, fault: Fault) -> None:
    await site.in_thread(site.upstream.kill)


async def _upstream_start(site: Site, fault: Fault) -> None:
    if not site.upstream.running:
        await site.in_thread(site.upstream.start)


async def _gateway_stop(site: Site, fault: Fault) -> None:
    site.gateway_meant_down = True
    await site.in_thread(site.gateway.child.stop)


async def _gateway_kill(site: Site, fault: Fault) -> None:
    if not site.gateway.child.running:
        raise FaultError("gateway.kill: the gateway was not running")
    site.gateway_meant_down = True
    await site.in_thread(site.gateway.child.kill)


async def _gateway_start(site: Site, fault: Fault) -> None:
    if not site.gateway.child.running:
        await site.in_thread(site.gateway.start)
    site.gateway_meant_down = False


async def _upstream_pause(site: Site, fault: Fault) -> None:
    pause(site.upstream.child, True)


async def _upstream_go_on(site: Site, fault: Fault) -> None:
    pause(site.upstream.child, False)


async def _gateway_pause(site: Site, fault: Fault) -> None:
    pause(site.gateway.child, True)


async def _gateway_go_on(site: Site, fault: Fault) -> None:
    pause(site.gateway.child, False)


async def _gateway_clock(site: Site, fault: Fault) -> None:
    if not isinstance(site.gateway, Tidegate):
        raise FaultError("gateway.clock: only Tidegate's clock can be set")
    site.gateway.set_clock(fault.offset_s)


async def _link_cut(site: Site, fault: Fault) -> None:
    if site.links[fault.link].cut(reset=True) == 0:
        raise FaultError(f"link.cut: no connection on the {fault.link} link to cut")


async def _link_refuse(site: Site, fault: Fault) -> None:
    site.links[fault.link].refuse()
    site.links[fault.link].cut(reset=True)


async def _link_blackhole(site: Site, fault: Fault) -> None:
    site.links[fault.link].set_fault(proxy_link.Fault(blackhole=True))


async def _link_bad(site: Site, fault: Fault) -> None:
    site.links[fault.link].set_fault(proxy_link.Fault(
        latency_s=fault.latency_ms / 1000, jitter_s=fault.jitter_ms / 1000,
        bytes_per_s=fault.bytes_per_s or None, corrupt=fault.corrupt), "up")


async def _link_heal(site: Site, fault: Fault) -> None:
    site.links[fault.link].heal()


async def _board_power(site: Site, fault: Fault) -> None:
    for board in site.boards:
        await site.in_thread(board.power_cut)


async def _board_brownout(site: Site, fault: Fault) -> None:
    for board in site.boards:
        await site.in_thread(board.brownout)


async def _board_power_on(site: Site, fault: Fault) -> None:
    for board in site.boards:
        await site.in_thread(board.power_on)


async def _board_wifi_off(site: Site, fault: Fault) -> None:
    for board in site.boards:
        await site.in_thread(partial(board.wifi, False))


async def _board_wifi_on(site: Site, fault: Fault) -> None:
    for board in site.boards:
        await site.in_thread(partial(board.wifi, True))


async def _disk_full(site: Site, fault: Fault) -> None:
    """The gateway was started with this fault and its times; see Site.disk."""


FAULTS: dict[str, Kind] = {
    "upstream.stop": Kind("broker stopped (SIGTERM)", _upstream_stop, _upstream_start),
    "upstream.kill": Kind("broker killed (SIGKILL)", _upstream_kill, _upstream_start),
    "upstream.pause": Kind("broker frozen (SIGSTOP)", _upstream_pause, _upstream_go_on),
    "gateway.stop": Kind("gateway stopped (SIGTERM)", _gateway_stop, _gateway_start, True),
    "gateway.kill": Kind("gateway killed (SIGKILL)", _gateway_kill, _gateway_start, True),
    "gateway.pause": Kind("gateway frozen (SIGSTOP)", _gateway_pause, _gateway_go_on, True),
    "gateway.clock": Kind("gateway's clock set", _gateway_clock, None),
    "disk.full": Kind("gateway's disk full", _disk_full, _disk_full),
    "link.cut": Kind("link cut", _link_cut, None, True),
    "link.refuse": Kind("link cut, connections refused", _link_refuse, _link_heal, True),
    "link.blackhole": Kind("link half open (blackhole)", _link_blackhole, _link_heal, True),
    "link.bad": Kind("link slow or noisy", _link_bad, _link_heal, True),
    "board.power": Kind("boards' power cut", _board_power, _board_power_on),
    "board.brownout": Kind("boards' power fails in a flash write", _board_brownout,
                           _board_power_on),
    "board.wifi": Kind("boards' Wi-Fi gone", _board_wifi_off, _board_wifi_on),
}
