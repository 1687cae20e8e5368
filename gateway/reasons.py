"""What a reason code of MQTT 5 says about a message, or about the broker (section 2.4).

A code that is not in these tables is no message's fault either: it is tried again later, and a
message is given up only where others pass and it does not (later.py, caution.py).
"""

from __future__ import annotations

IDENTIFIER_IN_USE = 0x91
RECEIVE_MAXIMUM_EXCEEDED = 0x93

# On PUBACK and PUBREC: the message as it is will never be taken.
FINAL = {
    0x87: "not authorized",
    0x90: "topic name invalid",
    0x95: "packet too large",
    0x99: "payload format invalid",
    0x9A: "retain not supported",
    0x9B: "QoS not supported",
}
# On PUBACK and PUBREC: the broker is in trouble, or we are too fast for it.
PASSING = {
    0x80: "unspecified error",
    0x83: "implementation specific error",
    0x89: "server busy",
    0x97: "quota exceeded",
}
# On DISCONNECT: nothing that we sent is the reason.
NOBODY = {
    0x89: "server busy",
    0x8B: "server shutting down",
    0x8D: "keep alive timeout",
    0x8E: "session taken over",
    0x96: "message rate too high",
    0x97: "quota exceeded",
    0x98: "administrative action",
    0x9C: "use another server",
    0x9D: "server moved",
    0x9F: "connection rate exceeded",
    0xA0: "maximum connect time",
}


def name(reason: int) -> str:
    """A reason code of PUBACK or PUBREC for the log."""
    text = FINAL.get(reason) or PASSING.get(reason)
    return f"0x{reason:02x} {text}" if text else f"0x{reason:02x}"
