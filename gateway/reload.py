"""SIGHUP: routes, rules, credentials and certificates in force without a connection lost."""

from __future__ import annotations

import logging

from gateway.bridge import Bridge
from gateway.config import Config

FIXED = ("id", "listener", "outbox", "upstream", "broker", "http", "panel")


def reload(bridge: Bridge, new: Config) -> list[str]:
    """Take what can be taken from a config; return the names of what waits for a restart.

    Raises ListenError where a certificate cannot be read; nothing has changed then.
    """
    bridge.listener.reload_tls()
    waiting = [name for name in FIXED if getattr(new, name) != getattr(bridge.config, name)]
    bridge.use_routes(new.route)
    bridge.config.allow = new.allow
    if bridge.door is not None:
        bridge.door.reload(new.allow)
    logging.getLogger().setLevel(new.log_level.upper())
    return waiting
