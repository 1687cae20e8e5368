"""umqtt's faults against a broker that shows them, on the real MicroPython.

The firmware's clock runs 20 times faster than ours here; times below are the firmware's. So this
network is loopback, done at once: tests/device/test_slow_link.py has one that takes time.
"""

from __future__ import annotations

import datetime
import json
import ssl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from fake_broker import FakeBroker, Manner, publish
from real_port import HERE, ROOT, MicroPython

from tools import interpreter

WELL = Manner()
BACKOFF_MS = 500  # the longest wait after one failure
SLACK_MS = 3000  # 150 ms of ours: two delayed TCP acknowledgements and a busy machine


@contextmanager
def broker(*manners: Manner) -> Iterator[FakeBroker]:
    fake = FakeBroker([*manners, Manner()])
    try:
        yield fake
    finally:
        fake.close()


def go(micropython: MicroPython, fake: FakeBroker, **options: Any) -> dict[str, Any]:
    """Run the firmware's network half until all its records are acknowledged."""
    options["port"] = fake.port
    output = micropython.run("uplink_run.py", json.dumps(options))
    result: dict[str, Any] = json.loads(output.splitlines()[-1])
    result["output"] = output
    fake.settle()
    assert fake.problems == []
    return result


def all_arrived(fake: FakeBroker, result: dict[str, Any], records: int = 20) -> None:
    """Every record came once, in order, and the device has let go of all of them."""
    assert result["acked"] == records, result
    assert fake.records == [(3, seq) for seq in range(1, records + 1)]
    assert fake.holes == 0
    assert result["held"] == [0, 0]


@pytest.mark.parametrize("qos", [0, 1])
def test_records_arrive_when_the_broker_behaves(micropython: MicroPython, qos: int) -> None:
    with broker() as fake:
        result = go(micropython, fake, qos=qos, records=60)
    all_arrived(fake, result, 60)
    assert fake.connections == result["connects"] == fake.wills == fake.disconnects == 1
    assert fake.again == 0
    assert result["done_ms"] < 60 * 5 * 20 + SLACK_MS
    status = [entry for entry in fake.published if entry[0] == "tidegate/dev/status"]
    assert status == [("tidegate/dev/status", b"online", 1, True)]
    assert ("tidegate/dev/about", b'{"v":1}', 0, True) in fake.published
    assert result["t0"][0] > 1763999000000  # learned from the acknowledgement


# (what the first connection is like, by when the first record is acknowledged on the second)
FAULTS = {
    "silent from the start": (Manner(silent=True), 5000),
    "no SUBACK": (Manner(suback=False), 5000),
    "connection refused by code": (Manner(refuse=5), 0),
    "closed after CONNECT": (Manner(close_on="connect"), 0),
    "closed on the first batch": (Manner(close_on="up"), 0),
    "no acknowledgement": (Manner(ack=False), 10000),
    "half an acknowledgement": (Manner(half=30), 5000),
    "one byte of an acknowledgement": (Manner(half=1), 5000),
    "a dead link: publishes at QoS 0 succeed": (Manner(deaf=True), 10000),
    "a packet type from nowhere": (Manner(first=b"\xf0\0"), 0),
    "a malformed length": (Manner(first=b"\x30\xff\xff\xff\xff\x01"), 0),
    "a topic longer than its packet": (Manner(first=b"\x30\x04\x00\xff\x41\x42"), 0),
    "a QoS 2 publish": (Manner(first=b"\x34\x07\0\2ab\0\1x"), 0),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_link_recovers_within_the_stated_time_after(micropython: MicroPython, fault: str) -> None:
    manner, deadline_ms = FAULTS[fault]
    with broker(manner) as fake:
        result = go(micropython, fake)
    all_arrived(fake, result)
    assert fake.connections == 2
    assert deadline_ms <= result["first_ack_ms"] < deadline_ms + BACKOFF_MS + SLACK_MS
    assert result["gap_ms"] < 100  # ours: sampling was never held up


@pytest.mark.parametrize("to_broker", [False, True])
def test_link_recovers_when_no_puback_comes(micropython: MicroPython, to_broker: bool) -> None:
    with broker(Manner(puback=False, ack=False)) as fake:
        result = go(micropython, fake, qos=1, to_broker=to_broker)
    all_arrived(fake, result)
    assert 10000 <= result["first_ack_ms"] < 10000 + BACKOFF_MS + SLACK_MS
    assert result["gap_ms"] < 100


def test_puback_of_another_packet_acknowledges_nothing(micropython: MicroPython) -> None:
    late = Manner(before_puback=b"\x40\x02\x77\x77", puback=True)
    with broker(late) as fake:
        result = go(micropython, fake, qos=1, to_broker=True)
    all_arrived(fake, result)
    assert fake.connections == 1, result["output"]

    class Wrong(FakeBroker):  # sends only the late one: nothing may leave the ring
        def _pid(self, body: bytes) -> None:
            self.pids.append(1)

    fake = Wrong([Manner(before_puback=b"\x40\x02\x77\x77", puback=True)])
    try:
        fake._publish = lambda kind, body, real=fake._publish: (  # type: ignore[method-assign]
            *real(kind, body)[:2], b"\x77\x78" if kind & 6 else b"")
        result = go(micropython, fake, qos=1, to_broker=True, limit_ms=4000)
    finally:
        fake.close()
    assert result["acked"] == 0


def test_batch_is_sent_again_when_the_connection_breaks_while_an_answer_goes_out(
    micropython: MicroPython,
) -> None:
    class Asks(FakeBroker):  # takes the first batch without a PUBACK, and sends a command
        def _batch(self, topic: str, payload: bytes) -> bytes:
            if self.connections > 1:
                return super()._batch(topic, payload)
            self.manners[0].puback = False
            return publish("tidegate/dev/down/cmd", b'{"id":1,"cmd":"heap"}')

    fake = Asks([Manner(), Manner()])
    try:
        result = go(micropython, fake, to_broker=True, reset_on="/answer")
    finally:
        fake.close()
    all_arrived(fake, result)
    assert fake.connections == 2
    assert "offline OSError [Errno 104]" in result["output"]


def test_packet_identifier_wraps_past_zero(micropython: MicroPython) -> None:
    with broker() as fake:
        result = go(micropython, fake, qos=1, pid=65530, every_ms=20)
    all_arrived(fake, result)
    assert fake.connections == 1, result["output"]
    assert 65535 in fake.pids
    assert 1 in fake.pids
    assert 0 not in fake.pids


def test_idle_link_is_kept_alive_by_pings(micropython: MicroPython) -> None:
    with broker() as fake:
        result = go(micropython, fake, records=1, idle_ms=60000)
    assert fake.connections == 1, result["output"]
    assert 3 <= fake.pings <= 5  # every 15 s
    assert result["acked"] == 1


def test_idle_link_without_pingresp_is_closed(micropython: MicroPython) -> None:
    with broker(Manner(pong=False)) as fake:
        result = go(micropython, fake, records=1, idle_ms=24000)
    assert "no PINGRESP" in result["output"]
    assert fake.connections == 2  # 15 s of quiet and 5 s of waiting


def test_oversized_message_is_skipped_and_the_link_lives(micropython: MicroPython) -> None:
    huge = publish("tidegate/dev/down/x", b"y" * 100_000)
    cmd = publish("tidegate/dev/down/cmd", b'{"id":7,"cmd":"read"}')
    with broker(Manner(first=huge + cmd)) as fake:
        result = go(micropython, fake, idle_ms=1000)
    all_arrived(fake, result)
    assert fake.connections == 1, result["output"]
    assert result["skipped"] == 1
    assert result["answered"] == [{"id": 7, "cmd": "read"}]
    assert any(entry[0] == "tidegate/dev/answer" for entry in fake.published)


def test_retained_command_is_no_command(micropython: MicroPython) -> None:
    first = b"".join(
        publish("tidegate/dev/down/cmd", b'{"id":%d,"cmd":"x"}' % retained, retained=retained)
        for retained in (True, False)
    )
    with broker(Manner(first=first)) as fake:
        result = go(micropython, fake)
    all_arrived(fake, result)
    assert result["answered"] == [{"id": 0, "cmd": "x"}]


@pytest.mark.parametrize("error", ["MemoryError", "OverflowError", "RuntimeError", "IndexError"])
def test_command_that_raises_closes_nothing(micropython: MicroPython, error: str) -> None:
    with broker(Manner(first=publish("tidegate/dev/down/cmd", b'{"id":"%s"}' % error.encode()))
                ) as fake:  # fmt: skip
        result = go(micropython, fake)
    all_arrived(fake, result)
    assert fake.connections == 1
    assert "unreadable message" in result["output"]


def test_unreadable_messages_change_nothing(micropython: MicroPython) -> None:
    noise = b"".join(
        publish("tidegate/dev/down/" + where, what)
        for where, what in [
            ("ack", b"\xff\xfe"), ("ack", b"[]"), ("ack", b'{"life":"zz","boot":3,"seq":99}'),
            ("ack", b'{"v":1,"life":"01020304","boot":3,"seq":99999}'),
            ("ack", b'{"v":1,"life":"01020305","boot":3,"seq":2}'), ("cmd", b"7"), ("x", b""),
        ]
    )  # fmt: skip
    with broker(Manner(first=noise)) as fake:
        result = go(micropython, fake)
    all_arrived(fake, result)
    assert fake.connections == 1, result["output"]


def test_acknowledgements_byte_by_byte_are_understood(micropython: MicroPython) -> None:
    with broker(Manner(drip=True)) as fake:
        result = go(micropython, fake)
    all_arrived(fake, result)
    assert fake.connections == 1, result["output"]


def test_nobody_listening_is_no_reason_to_stop_sampling(micropython: MicroPython) -> None:
    fake = FakeBroker([WELL])
    fake.close()
    result = go(micropython, fake, limit_ms=10000)
    assert result["made"] == 20
    assert result["acked"] == 0
    assert result["gap_ms"] < 100


def test_backlog_drains_in_order_from_flash_and_ram(micropython: MicroPython) -> None:
    with broker() as fake:
        result = go(micropython, fake, fill=2000, records=2100)
    all_arrived(fake, result, 2100)


# How the versions in the ESP32 images differ from 1.3.4: (in 1.3.4, instead)
NEWER = {
    "1.4.0": [("ssl=False, ssl_params={}", "ssl=None"), ("self.ssl_params = ssl_params", "pass"),
              ("import ussl", "pass"), ("ussl.wrap_socket(self.sock, **self.ssl_params)",
               "self.ssl.wrap_socket(self.sock, server_hostname=self.server)"),
              ("if self.user is not None", "if self.user")],
    "1.8.0": [("import usocket as socket", "import socket"), ("import ustruct as struct",
               "import struct"), ("def connect(self, clean_session=True):\n"
               "        self.sock = socket.socket()", "def connect(self, clean_session=True, "
               "timeout=None):\n        self.sock = socket.socket()\n"
               "        self.sock.settimeout(timeout)")],
}  # fmt: skip


@pytest.mark.parametrize("version", NEWER)
def test_link_works_with_a_newer_umqtt(version: str, open_folder: Path) -> None:
    text = (interpreter.umqtt_simple() / "umqtt" / "simple.py").read_text()
    for old, new in NEWER[version]:
        assert old in text
        text = text.replace(old, new)
    target = open_folder / version / "umqtt" / "simple.py"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text)
    newer = MicroPython([HERE / "mp", ROOT / "device", open_folder / version], "8m")
    with broker(Manner(ack=False, puback=False)) as fake:
        result = go(newer, fake, qos=1)
    all_arrived(fake, result)
    assert fake.connections == 2


def certificate(folder: Path) -> tuple[Path, Path]:
    """Make a certificate for 127.0.0.1; return its PEM with the key, and the DER alone."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name)
        .public_key(key.public_key()).serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    both, der = folder / "server.pem", folder / "ca.der"
    both.write_bytes(
        made.public_bytes(Encoding.PEM)
        + key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    der.write_bytes(made.public_bytes(Encoding.DER))
    der.chmod(0o644)
    return both, der


@pytest.mark.parametrize("check", ["nothing", "right authority", "wrong authority"])
def test_tls_connects_without_waiting(
    micropython: MicroPython, open_folder: Path, tmp_path: Path, check: str
) -> None:
    both, der = certificate(open_folder)
    if check == "wrong authority":
        both, _ = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    fake = FakeBroker([WELL], tls=context)
    wanted: Any = True if check == "nothing" else str(der)
    try:
        limit_ms = 8000 if check == "wrong authority" else 100000
        result = go(micropython, fake, tls=wanted, fast=4, limit_ms=limit_ms)
    finally:
        fake.close()
    if check == "wrong authority":
        assert result["acked"] == 0
        assert result["connects"] == 0
    else:
        all_arrived(fake, result)
        assert fake.connections == 1, result["output"]
    assert result["gap_ms"] < 100


def test_tls_with_a_silent_server_gives_up(micropython: MicroPython, tmp_path: Path) -> None:
    both, _ = certificate(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(both)
    fake = FakeBroker([Manner(silent=True), WELL], tls=context)
    try:
        result = go(micropython, fake, tls=True)
    finally:
        fake.close()
    all_arrived(fake, result)
    assert 15000 <= result["first_ack_ms"] < 15000 + BACKOFF_MS + 2 * SLACK_MS
