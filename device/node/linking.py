"""Makes the link: the only file that imports umqtt. Loaded for the start only."""

import umqtt.simple as umqtt

from node.link import Link
from node.wire import Wire


def make(now_ms, client_id, host, port, prefix, user=None, password=None, keepalive=30,
         tls=None):  # fmt: skip
    """Return a Link to one broker.

    client_id, prefix (of all topics, with the slash), user, password: bytes. host: str.
    now_ms: the uptime [ms]. keepalive [s]: announced to the broker; we ping at half of it.
    tls: None, an SSLContext, or text: why there is none; then it never connects.
    """
    link = Link()
    link.now_ms = now_ms
    link.tls = tls
    link.prefix = prefix
    link.addr = None
    link.wire = Wire()
    umqtt.socket = link.wire  # the name under which every version of it finds the module
    link.client = umqtt.MQTTClient(client_id, host, port, user, password, keepalive)
    link.client.set_last_will(prefix + b"status", b"offline", retain=True, qos=1)
    link.client.set_callback(link._note)
    link._inbox = []
    link.why = ""  # the last error
    link.failed = 0  # connects in a row that did not come UP
    link.connects = 0
    link._deadline = 0
    link._heard = link._said = 0
    link._half = 0  # since when it has the part that it has of a packet
    link._puback_by = 0
    link.close("")
    return link
