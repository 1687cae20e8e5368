"""The end of a round: let everything arrive that shall, then count."""

from __future__ import annotations

from tools.crash_mqtt import Publish, publish
from tools.crash_site import WILL_GRACE_S, Site
from tools.crash_verdict import Judge, Stream, Tally

IDLE_S = 20.0
"""How long [s] nothing may move before a round is judged as it stands."""


async def judge_site(site: Site, idle_s: float = IDLE_S) -> Tally:
    """Let all of it arrive, then count, after idle_s [s] without progress at the latest."""
    site.heal()
    site.producing = False
    if site.gateway is None or not site.gateway.running:
        await site.start_gateway(None)
    devices, subscriber, wire = site.devices, site.subscriber, site.wire
    streams = {d.client_id: Stream(d.ledger, d.exact, d.min_qos) for d in devices}
    await site.until(lambda: all(d.unacknowledged == 0 for d in devices), idle_s,
                     "the acknowledgement of everything",
                     lambda: sum(d.acknowledged for d in devices))
    judge = Judge(streams, subscriber.arrivals, wire.exchanges, wire.order, subscriber.outages,
                  site.after_lost_session)
    missing = {key for d in devices for key, line in d.ledger.items() if line.owed}

    def complete() -> bool:
        missing.difference_update(subscriber.arrived)
        return wire.busy == 0 and all(judge.excused(key) for key in missing)

    await site.until(complete, idle_s, "the rest to arrive",
                     lambda: (len(subscriber.arrivals), sum(wire.counts.values())))
    wills = await _wills(site, idle_s)
    await _sentinel(site)
    await site.stop_gateway()
    tally = judge.verdict()
    for will in wills:
        tally.blame("lost_wills", will)
    for refused in await site.set_aside():
        tally.blame("falsely_refused", refused)
    for text in [*site.complaints, *wire.complaints, *subscriber.strangers,
                 *(c for d in devices for c in d.complaints)]:
        tally.blame("other", text)
    return tally


async def _wills(site: Site, idle_s: float) -> list[str]:
    """Let one more device vanish; return what the upstream was not told of those that did."""
    last = site.mayflies.pop()
    await site.until(lambda: last.told, idle_s, "a device's status to be acknowledged")
    site.gone.append(last)
    last.vanish()
    expected = {device.status_topic: b"offline" for device in site.gone if device.told}
    expected |= {device.status_topic: b"online" for device in site.mayflies}
    before = len(site.complaints)
    said = site.wire.status
    await site.until(lambda: all(said.get(t) == text for t, text in expected.items()),
                     WILL_GRACE_S + max(2.0, idle_s / 2),
                     "the statuses")
    del site.complaints[before:]
    return [f"{topic} says {said.get(topic)!r}, not {text!r}"
            for topic, text in expected.items() if said.get(topic) != text]


async def _sentinel(site: Site) -> None:
    """Wait until a message of our own came round: what the broker had for us came before."""
    mark = b"sentinel 1"
    site.subscriber.send(publish(Publish("crash/sentinel", mark, 1, False, False, 60_000)))
    key = ("sentinel", 0, 1)
    await site.until(lambda: key in site.subscriber.arrived, 10.0, "the sentinel")
    site.subscriber.arrivals[:] = [a for a in site.subscriber.arrivals if a.key != key]
