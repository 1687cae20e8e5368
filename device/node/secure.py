"""TLS for the link. Loaded only where the settings ask for it."""

import gc

import tls  # built in from 1.23 on; the ssl module is a layer on it

from node import board


def context(wanted):
    """Return an SSLContext for settings["gateway"]["tls"]."""
    gc.collect()  # mbedTLS wants its memory in large pieces
    made = tls.SSLContext(tls.PROTOCOL_TLS_CLIENT)
    if wanted is True:
        made.verify_mode = tls.CERT_NONE  # encrypted, not authenticated: docs/firmware.md
    else:
        made.verify_mode = tls.CERT_REQUIRED
        with open(wanted["ca"], "rb") as f:
            made.load_verify_locations(f.read())
        _not_before(wanted.get("date"))
    return made


def _not_before(date):
    """Set a clock that power-on put back to 2000: no certificate was valid then.

    date: [year, month, day] of provisioning, a day on which the authority was valid.
    """
    clock = board.machine.RTC()
    if date and clock.datetime()[:3] < tuple(date):
        clock.datetime((date[0], date[1], date[2], 0, 0, 0, 0, 0))
