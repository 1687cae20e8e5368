"""What of the stand-in can be set, with EMQX's own names and defaults where it has them."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, fields


@dataclass
class Settings:
    """May be changed while it runs, see control.py.

    await_rel_timeout_s: how long a QoS 2 packet identifier is held without PUBREL [s].
    session_expiry_s: of MQTT 3.1.1 sessions [s]; MQTT 5 says its own.
    max_mqueue_len: messages kept for one session; the oldest goes, as in EMQX.
    deny: publishing to what this filter matches is denied; empty for none.
    deny_action: `ignore` or `disconnect`.
    publish_quota: messages/s before the limiter refuses with 0x97; 0 for none. quota_exceeded:
    refuses everything now.
    messages_rate: messages/s of one connection that are read, then its socket is left alone; 0 for
    none. reading: False leaves all sockets alone.
    acks_unknown_dup: EMQX 6.2 and later: a QoS 2 PUBLISH with DUP that is not held is
    acknowledged and not delivered, and one that is held gets a plain PUBREC.
    deliver_at_pubrel: not EMQX; Mosquitto, aedes and amqtt hand a message out only then.
    """

    max_awaiting_rel: int = 100
    await_rel_timeout_s: float = 300.0
    max_inflight: int = 32
    max_mqueue_len: int = 1000
    max_packet_bytes: int = 1_048_576
    max_sessions: int = 10_000
    session_expiry_s: float = 7200.0
    deny: str = ""
    deny_action: str = "ignore"
    publish_quota: float = 0.0
    quota_exceeded: bool = False
    messages_rate: float = 0.0
    reading: bool = True
    acks_unknown_dup: bool = False
    deliver_at_pubrel: bool = False

    def change(self, name: str, value: object) -> None:
        """Set one by name; raises ValueError."""
        known = {field.name: field.default for field in fields(self)}
        if name not in known:
            raise ValueError(f"no setting {name!r}")
        default = known[name]
        if isinstance(default, float) and type(value) is int:
            value = float(value)
        if type(value) is not type(default):
            raise ValueError(f"{name} = {value!r}: not like {default!r}")
        if name == "deny_action" and value not in ("ignore", "disconnect"):
            raise ValueError(f"deny_action = {value!r}: ignore or disconnect")
        setattr(self, name, value)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One option for each setting."""
    for item in fields(Settings):
        option = "--" + item.name.replace("_", "-")
        if isinstance(item.default, bool):
            parser.add_argument(option, action=argparse.BooleanOptionalAction,
                                default=item.default)
        else:
            parser.add_argument(option, type=type(item.default), default=item.default)


def from_arguments(args: argparse.Namespace) -> Settings:
    """What the command line says; raises ValueError."""
    settings = Settings()
    for item in fields(Settings):
        settings.change(item.name, getattr(args, item.name))
    return settings


def as_options(changes: dict[str, object]) -> list[str]:
    """Command line options that say these changes; raises ValueError."""
    known = Settings()
    options = []
    for name, value in changes.items():
        known.change(name, value)
        option = name.replace("_", "-")
        options.append(f"--{option}={value}" if not isinstance(value, bool) else
                       f"--{option}" if value else f"--no-{option}")
    return options
