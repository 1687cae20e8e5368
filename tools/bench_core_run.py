"""One case of `make bench-core` in this process: the gateway's path from a device's bytes to the
upstream's, without sockets, its outbox in memory (/dev/shm). Prints what it measured as JSON.

Run as a file, by tools/bench_core.py, with the tree to be measured at the head of PYTHONPATH: so
one and the same load meets two trees. It imports nothing of tools/, and of the gateway what every
tree has: the Bridge, the listener's Connection, the decoder of acknowledgements.
"""

from __future__ import annotations

import asyncio
import cProfile
import importlib
import json
import logging
import os
import pstats
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import uvloop

PAYLOAD = bytes(80)
RECORDS = 10  # in a batch of the device contract
SUBSCRIBERS = 50
DEADLINE_S = 60.0


def load(*names: str) -> Any:
    """The first of these modules that the tree has, and not another that is installed."""
    for name in names:
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError:
            continue
        if Path(str(module.__file__)).is_relative_to(os.environ["PYTHONPATH"]):
            return module
    raise SystemExit(f"the tree has none of {', '.join(names)}")


config = load("tidegate.config", "gateway.config")
bridge_room = load("tidegate.bridge", "gateway.bridge")
listener_room = load("tidegate.clients.listener", "gateway.listener")
flight_room = load("tidegate.upstream.flight", "tidegate.mqtt.flight", "gateway.flight")
wire = load("tidegate.mqtt.decode", "tidegate.mqtt.wire", "gateway.wire")


def packet(first: int, body: bytes) -> bytes:
    """An MQTT packet."""
    length, size = b"", len(body)
    while True:
        length += bytes((size % 128 | (128 if size > 127 else 0),))
        size //= 128
        if not size:
            return bytes((first,)) + length + body


def text(value: str) -> bytes:
    """An MQTT string."""
    return len(value.encode()).to_bytes(2, "big") + value.encode()


def publish(topic: str, payload: bytes, qos: int, mid: int) -> bytes:
    """A PUBLISH."""
    return packet(0x30 | qos << 1, text(topic) + (mid.to_bytes(2, "big") if qos else b"")
                  + payload)


class Device:
    """A client that waits for the answer to what it sent before it sends the next; also its
    transport, as asyncio's protocols see one."""

    def __init__(self, run: Run, number: int, qos: int, topic: str, payload: bytes) -> None:
        self.run, self.qos = run, qos
        self.packet = publish(topic, payload, qos, 7)
        self.left = 0  # to send yet
        self.conn = listener_room.Connection(run.bridge.listener)
        self.conn.connection_made(self)
        self.conn.data_received(packet(0x10, text("MQTT") + b"\4\2\0\0" + text(f"c{number}")))

    def subscribe(self, topic_filter: str) -> None:
        """SUBSCRIBE at QoS 0."""
        self.conn.data_received(packet(0x82, b"\0\1" + text(topic_filter) + b"\0"))

    def send(self) -> None:
        """The next message, if there is one."""
        if self.left:
            self.left -= 1
            self.conn.data_received(self.packet)

    def write(self, data: bytes) -> None:
        """What the gateway answers."""
        kind = data[0] >> 4
        if kind == 5:  # PUBREC
            self.run.soon.append((self.conn.data_received, b"\x62\2\0\7"))
        elif kind in (3, 4, 7):  # an acknowledged batch, PUBACK, PUBCOMP
            self.run.answered += 1
            self.run.ready.append(self)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """No socket, no certificate."""
        return ("127.0.0.1", 1) if name == "peername" else default

    def get_write_buffer_size(self) -> int:
        """All is written at once."""
        return 0

    def nothing(self, *_args: Any, **_more: Any) -> None:
        """What a transport can do that does not matter here."""

    set_write_buffer_limits = pause_reading = resume_reading = close = abort = nothing


class Subscriber(Device):
    """One that only counts what it gets."""

    def write(self, data: bytes) -> None:
        if data[0] >> 4 == 3:
            self.run.heard += data.count(PAYLOAD)


class Upstream:
    """The broker and the link to it, at the seam where the gateway writes packets."""

    connected = True

    def __init__(self, run: Run) -> None:
        self.run = run
        self.replies = bytearray()
        self.arrived = 0

    def write(self, parts: list[bytes]) -> None:
        """Take packets; what is answered comes with the next turn of the loop."""
        data = b"".join(parts)
        at, size, replies = 0, len(data), self.replies
        while at < size:
            length, body, shift = data[at + 1], at + 2, 7
            if length > 127:
                length &= 127
                while True:
                    byte = data[body]
                    length |= (byte & 127) << shift
                    body += 1
                    shift += 7
                    if byte < 128:
                        break
            kind, qos = data[at] >> 4, data[at] >> 1 & 3
            if kind == 6:  # PUBREL
                replies += b"\x70\2" + data[body:body + 2]
            elif kind == 3:
                self.arrived += 1
                if qos:
                    mid = body + 2 + (data[body] << 8 | data[body + 1])
                    replies += (b"\x40\2" if qos == 1 else b"\x50\2") + data[mid:mid + 2]
            at = body + length

    def writable(self) -> bool:
        """It always takes more."""
        return True

    def unsent_bytes(self) -> int:
        """Nothing waits in a socket."""
        return 0

    def drop(self, reason: str) -> None:
        """It should not come to that."""
        raise SystemExit(f"the gateway dropped its link: {reason}")

    def answer(self) -> None:
        """Acknowledge what came since the last turn."""
        if self.replies:
            data = bytes(self.replies)
            self.replies.clear()
            self.run.bridge.drain.upstream_acks(wire.decode_acks(data))
            self.run.bridge.drain.upstream_writable()


class Run:
    """A gateway without sockets, and who is around it."""

    def __init__(self, folder: Path, out: int, fan_out: bool) -> None:
        file = folder / "tidegate.toml"
        route = "" if fan_out else f'[[route]]\nfilter = "#"\nupgrade = {out}\n'
        file.write_text('id = "core"\nlog_level = "error"\n[listener]\nlisten = "127.0.0.1:0"\n'
                        'max_connections = 1000\n[upstream]\ninflight = 1000\n'
                        f'url = "mqtt://127.0.0.1:9"\n{route}')
        self.bridge = bridge_room.Bridge(config.load(file))
        self.upstream = Upstream(self)
        self.bridge.upstream = self.bridge.drain.upstream = self.upstream
        self.ready: list[Device] = []
        self.soon: list[tuple[Any, bytes]] = []
        self.answered = self.heard = 0

    async def turn(self) -> None:
        """Let everybody do what is due."""
        ready, self.ready = self.ready, []
        for device in ready:
            device.send()
        soon, self.soon = self.soon, []
        for call, data in soon:
            call(data)
        self.upstream.answer()
        await asyncio.sleep(0)

    async def until(self, done: Any) -> None:
        """Turn until something holds."""
        end_s = time.monotonic() + DEADLINE_S
        while not done():
            await self.turn()
            if time.monotonic() > end_s:
                raise SystemExit(f"stuck: answered {self.answered}, upstream "
                                 f"{self.upstream.arrived}, heard {self.heard}")


class Batches(Device):
    """A board with our firmware: batches at QoS 0, each acknowledged on `down/ack`."""

    topic = ""
    seq = 1

    def send(self) -> None:
        if not self.left:
            return
        self.left -= 1
        records = [[1000 * (self.seq + n), "air", {"temperature_c": 21.5, "humidity_pct": 40}]
                   for n in range(RECORDS)]
        payload = json.dumps({"v": 1, "life": "0a1b2c3d", "boot": 3, "seq": self.seq,
                              "low": self.seq, "now": 1000 * (self.seq + RECORDS),
                              "recs": records}).encode()
        self.seq += RECORDS
        self.conn.data_received(publish(self.topic, payload, 0, 0))


async def measure(kind: str, into: int, out: int, messages: int, folder: Path,
                  profile: cProfile.Profile | None) -> dict[str, float]:
    """Drive one case; µs of CPU a message, of this whole process."""
    run = Run(folder, out, kind == "fan-out")
    loop = asyncio.get_running_loop()
    committing = loop.create_task(run.bridge.committer.run())
    run.bridge.drain.upstream_connected(False, flight_room.Limits(window=1000))
    devices: list[Device] = []
    count = 1 if kind == "fan-out" else 200
    for number in range(count):
        if kind == "batches":
            device: Device = Batches(run, number, 0, "-", b"")
            assert isinstance(device, Batches)
            device.topic = f"tidegate/dev{number}/up"
            device.subscribe(f"tidegate/dev{number}/down/#")
        else:
            device = Device(run, number, into, f"bench/{number}", PAYLOAD)
        devices.append(device)
    if kind == "fan-out":
        for number in range(SUBSCRIBERS):
            Subscriber(run, 1000 + number, 0, "-", b"").subscribe("bench/#")
    await run.until(lambda: True)
    run.answered = 0

    async def drive(each: int) -> None:
        first, goal = run.upstream.arrived, run.answered + each * count
        heard = run.heard + each * SUBSCRIBERS
        for device in devices:
            device.left = each
        if into == 0 and kind != "batches":  # nobody waits for an answer
            for _ in range(each):
                for device in devices:
                    device.send()
                await run.turn()
        else:
            run.ready = list(devices)
            await run.until(lambda: run.answered >= goal)
        if kind == "fan-out":
            await run.until(lambda: run.heard >= heard)
        else:
            factor = RECORDS if kind == "batches" else 1
            await run.until(lambda: run.upstream.arrived >= first + each * count * factor)

    await drive(max(1, messages // count // 5))  # warm
    each = messages // count
    if profile is not None:
        profile.enable()
    wall_s, cpu_s = time.perf_counter(), time.process_time()
    await drive(each)
    cpu_s, wall_s = time.process_time() - cpu_s, time.perf_counter() - wall_s
    if profile is not None:
        profile.disable()
    committing.cancel()
    units = each * count * (SUBSCRIBERS if kind == "fan-out" else 1)
    return {"cpu_us": cpu_s * 1e6 / units, "per_s": units / wall_s, "messages": units}


def main() -> None:
    """KIND INTO OUT MESSAGES [--profile]"""
    kind, into, out, messages = sys.argv[1], *map(int, sys.argv[2:5])
    logging.disable(logging.INFO)
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    profile = cProfile.Profile() if "--profile" in sys.argv else None
    with tempfile.TemporaryDirectory(prefix="tidegate-core-", dir=memory) as name:
        result = uvloop.run(measure(kind, into, out, messages, Path(name), profile))
        print(json.dumps(result), flush=True)
    if profile is not None:
        pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(30)
    os._exit(0)  # the outbox's thread waits for nothing


if __name__ == "__main__":
    main()
