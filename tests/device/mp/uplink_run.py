"""Run ring, link and uplink against a broker; runs on MicroPython.

argv: a JSON object: port, records (to make, then wait until all are acknowledged), every_ms,
qos, to_broker, fast (how much faster the firmware's clock runs), pid (to start from), idle_ms
(to go on after the last), limit_ms. Times but every_ms are the firmware's. reset_on: the network
resets the connection, once, while a packet with this text in it goes out. nap_ms: how long the
loop waits for the network, as far as there is nothing to do.
Prints the uplink's lines, then one JSON line.
"""

import builtins
import json
import sys
import time
from binascii import crc32

from node import goodbye, linking
from node.clock import Backoff
from node.ring import Ring
from node.uplink import Uplink

options = {"records": 20, "every_ms": 5, "qos": 0, "to_broker": False, "fast": 20, "pid": 0,
           "idle_ms": 0, "limit_ms": 100000, "keepalive_s": 30, "fill": 0,
           "tls": False, "reset_on": "", "nap_ms": 1}  # fmt: skip
options.update(json.loads(sys.argv[1]))
FAST = options["fast"]
start = time.ticks_ms()


def now_ms():
    return time.ticks_diff(time.ticks_ms(), start) * FAST


class Store:
    """Files in a dict."""

    def __init__(self):
        self.files = {}

    def names(self):
        return list(self.files)

    def size(self, name):
        return len(self.files[name]) if name in self.files else -1

    def read(self, name, offset, buf):
        data = self.files.get(name, b"")[offset : offset + len(buf)]
        buf[: len(data)] = data
        return len(data)

    def crc(self, name, offset, end, _buf):
        data = self.files[name][offset:end]
        return crc32(data) if len(data) == end - offset else None

    def write(self, name, *parts):
        self.files[name] = b"".join([bytes(part) for part in parts])

    def remove(self, name):
        self.files.pop(name, None)

    def rename(self, old, new):
        self.files[new] = self.files.pop(old)


def tls(kind):
    if not kind:
        return None
    import tls as ssl  # built in from 1.23 on; `ssl` is a frozen layer on it

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.verify_mode = ssl.CERT_NONE if kind is True else ssl.CERT_REQUIRED
    if kind is not True:
        with open(kind, "rb") as f:
            context.load_verify_locations(f.read())
    return context


def reset_once(text):
    from node.wire import Wire

    real, done = Wire.flush, []

    def flush(self):
        if not done and text in bytes(self._out[: self._end]):
            done.append(1)
            raise OSError(104)
        real(self)

    Wire.flush = flush


if options["reset_on"]:
    reset_once(options["reset_on"].encode())
answered = []


def about(out):
    out[:7] = b'{"v":1}'
    return 7


def command(data):
    answered.append(data)
    if isinstance(data["id"], str):  # the name of an error
        raise getattr(builtins, data["id"])
    return {"v": 1, "ok": True, "id": data["id"]}


ring = Ring(Store(), b"\x01\x02\x03\x04", 3, 4096, 1 << 20)
link = linking.make(now_ms, b"dev", "127.0.0.1", options["port"], b"tidegate/dev/", b"user",
                    b"secret", options["keepalive_s"], tls(options["tls"]))  # fmt: skip
link.client.pid = options["pid"]
uplink = Uplink(link, ring, Backoff(), lambda: 0.99, now_ms, b"tidegate/dev/",
                about, command, options["qos"], options["to_broker"])  # fmt: skip
made = 0
keys = ("temperature_c", "label")
while made < options["fill"]:
    made = ring.add(made, "air", keys, (made / 10, "x"))
ring.commit()
gap = 0  # the longest that the loop was held up [real ms]
next_at = last = time.ticks_ms()
done_at = -1
first_ack = -1
steps = 0
while now_ms() < options["limit_ms"]:
    here = time.ticks_ms()
    gap = max(gap, time.ticks_diff(here, last))
    last = here
    if made < options["records"] and time.ticks_diff(here, next_at) >= 0:
        made = ring.add(now_ms(), "air", keys, (made / 10, "x"))
        ring.commit()
        next_at = time.ticks_add(next_at, options["every_ms"])
    uplink.step(True)
    if uplink.acked and first_ack < 0:
        first_ack = now_ms()
    if uplink.acked >= options["records"] and done_at < 0:
        done_at = now_ms()
    if done_at >= 0 and now_ms() - done_at >= options["idle_ms"]:
        break
    busy = time.ticks_ms()
    link.wire.wait(options["nap_ms"]) or time.sleep_ms(options["nap_ms"])
    steps += 1
    last = time.ticks_add(last, time.ticks_diff(time.ticks_ms(), busy))
left = now_ms()
goodbye.say(link)
left = now_ms() - left
print(json.dumps({
    "acked": uplink.acked, "made": made, "first_ack_ms": first_ack, "done_ms": done_at,
    "gap_ms": gap, "connects": link.connects, "why": link.why, "skipped": link.wire.skipped,
    "answered": answered, "steps": steps, "left_ms": left,
    "held": ring.held(), "t0": ring._boots.get((b"\x01\x02\x03\x04", 3)),
}))  # fmt: skip
