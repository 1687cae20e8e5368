"""The gateway's routes and its voice."""

from __future__ import annotations

import random
from typing import Literal

from gateway.bridge import Bridge
from gateway.routes import Route
from gateway.wire import Publish
from model.devices import Records
from model.rules import Options

QOS: list[Literal[1, 2]] = [1, 2]


def routes(rng: random.Random, options: Options) -> list[Route]:
    """q: the QoS; u: urgent; l: latest-only; d: drop-oldest; k: kept for a while."""
    one, two = rng.sample(QOS, 2) if options.reload else QOS
    return [Route(filter="q0/#", upgrade=0), Route(filter="q1/#", upgrade=one),
            Route(filter="q2/#", upgrade=two),
            Route(filter="u1/#", upgrade=1, urgent=True),
            Route(filter="u2/#", upgrade=2, urgent=True),
            Route(filter="l0/#", upgrade=0, full="latest-only"),
            Route(filter="l1/#", upgrade=1, full="latest-only"),
            Route(filter="l2/#", upgrade=2, full="latest-only"),
            Route(filter="d1/#", upgrade=1, full="drop-oldest"),
            Route(filter="k1/#", upgrade=1, keep_s=5),
            Route(filter="tidegate/+/up", upgrade=rng.choice(QOS))]


class House(Bridge):
    """Tells the contract's device what the gateway says to it; knows no time of day."""

    records: Records

    def _say(self, message: Publish) -> None:
        self.records.said(message)

    @staticmethod
    def utc_ms() -> int | None:
        return None  # a clock that was never set
