"""TLS for the link. Loaded only where the settings ask for it."""

import gc

import tls  # built in from 1.23 on; the ssl module is a layer on it


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
    return made
