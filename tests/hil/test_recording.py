"""The recording format, and each way in: log, wire, capture."""

from __future__ import annotations

import io
import json
import random
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tools.crash_mqtt import DISCONNECT, Publish, connect, encode, publish
from tools.hil.record import import_log, import_log_file
from tools.hil.recording import (
    Event,
    RecordingError,
    Writer,
    create,
    new_header,
    publish_event,
    read,
    read_header,
)
from tools.hil.wiretap import Wiretap
from tools.mosquitto import Mosquitto, client_command

dpkt = pytest.importorskip("dpkt")
from tools.hil.pcap import import_pcap  # noqa: E402

HERE = Path(__file__).parent
LOG = HERE / "greenhouse.log"
WILL = Publish("d/status", b"offline", 1, True, False, 0)


def write(path: Path, *events: Event) -> Path:
    with create(path, new_header("test")) as writer:
        for event in events:
            writer.write(event)
    return path


@given(st.binary(), st.integers(0, 2), st.booleans())
def test_recording_keeps_any_payload(payload: bytes, qos: int, retain: bool) -> None:
    file = io.BytesIO()
    writer = Writer(file, new_header("test"))
    writer.write(publish_event(7, "c", "t", payload, qos=qos, retain=retain))
    found = Event(**json.loads(file.getvalue().splitlines()[1]))
    assert (found.payload, found.qos, found.retain) == (payload, qos, retain)


@pytest.mark.parametrize(("line", "says"), [
    ('{"t":1,"e":"publish","topic":"a/#"}', "line 3: topic = 'a/#'"),
    ('{"t":1,"e":"shout"}', "line 3: e = 'shout'"),
    ('{"t":1,"e":"publish","topic":"a","qos":3}', "line 3: qos = 3"),
    ('{"t":1,"e":"publish","topic":"a","b64":"!"}', "line 3: b64: not base64"),
    ('{"t":-1,"e":"cut"}', "line 3: t = -1"),
    ("nonsense", "line 3: "),
])
def test_read_names_the_bad_line(tmp_path: Path, line: str, says: str) -> None:
    path = write(tmp_path / "r.jsonl", publish_event(0, "c", "a", b""))
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(RecordingError, match=says):
        list(read(path))


def test_read_refuses_time_that_goes_back(tmp_path: Path) -> None:
    path = write(tmp_path / "r", publish_event(5, "c", "a", b""), publish_event(4, "c", "a", b""))
    with pytest.raises(RecordingError, match="earlier"):
        list(read(path))


@pytest.mark.parametrize("first", ['{"tidegate_recording": 2}', "{}", '{"tst":"x"}', ""])
def test_read_header_refuses_other_files(tmp_path: Path, first: str) -> None:
    (tmp_path / "r").write_text(first + "\n")
    with pytest.raises(RecordingError):
        read_header(tmp_path / "r")


# a log of mosquitto_sub -F %j


def test_import_log_takes_times_from_the_log() -> None:
    events = list(import_log_file(LOG, client_level=2))
    assert [event.t for event in events[:3]] == [0, 512_000_000, 1_024_000_000]
    assert {event.c for event in events} == {"bench-1", "bench-2", "recorded"}
    assert events[0].topic == "house/bench-1/air"
    assert json.loads(events[0].payload)["temperature_c"] == 21.5
    assert any(event.retain for event in events)


def test_import_log_clock_set_back_counts_as_no_time() -> None:
    def line(at: str) -> str:
        return json.dumps({"tst": at, "topic": "a", "qos": 0, "retain": 0, "payload": "x"})

    times = ["2026-01-01T00:00:10.000000Z", "2026-01-01T00:00:05Z", "2026-01-01T01:00:11+0100"]
    events = list(import_log(map(line, times)))
    assert [event.t for event in events] == [0, 0, 1_000_000_000]


DEBIANS = ('{"tst":"2026-11-24T16:50:51.636967Z+0100","topic":"a/b","qos":0,"retain":1,'
           '"payloadlen":2,"payload":"hi"}')  # mosquitto_sub 2.0.11, where it is +01:00


def test_import_log_takes_debians_time_which_has_a_z_and_an_offset() -> None:
    began: list[datetime] = []
    later = DEBIANS.replace("51.636967Z+0100", "53.136967Z+0100")
    events = list(import_log([DEBIANS, later], on_begin=began.append))
    assert [(event.t, event.payload) for event in events] == [(0, b"hi"), (1_500_000_000, b"hi")]
    assert began == [datetime(2026, 11, 24, 15, 50, 51, 636967, tzinfo=UTC)]


def test_import_log_of_the_mosquitto_sub_of_this_machine(tmp_path: Path) -> None:
    with Mosquitto(tmp_path / "broker", persistence=False) as broker:
        say = client_command("mosquitto_pub", broker.port, "-r", "-t", "a/b", "-m", "hi")
        subprocess.run(say, check=True, timeout=20)
        hear = client_command("mosquitto_sub", broker.port, "-t", "a/b", "-F", "%j", "-C", "1")
        heard = subprocess.run(hear, check=True, timeout=20, capture_output=True, text=True)
    events = list(import_log(heard.stdout.splitlines()))
    assert [(event.topic, event.payload, event.retain) for event in events] == [
        ("a/b", b"hi", True)]


def test_import_log_json_payload() -> None:
    line = '{"tst":"2026-01-01T00:00:00Z","topic":"a","qos":1,"retain":0,"payload":{"v":1.5}}'
    assert next(import_log([line])).payload == b'{"v":1.5}'


def test_import_log_names_the_bad_line() -> None:
    with pytest.raises(RecordingError, match="line 2: not a line of mosquitto_sub"):
        list(import_log(["", "house/a 21.5"]))


# a wire


def told(stream: bytes, sizes: list[int]) -> list[Event]:
    events: list[Event] = []
    tap, at = Wiretap(events.append), 0
    for size in [*sizes, len(stream)]:
        if stream[at : at + size]:
            tap.feed("x", at, stream[at : at + size])
        at += size
    tap.end("x", len(stream))
    return events


HELLO = connect("d", clean=False, keepalive_s=30, will=WILL)
TALK = HELLO + publish(Publish("a/b", b"\xff\x00", 2, False, True, 9)) + publish(
    Publish("d/status", b"online", 0, True, False, 0))


@given(st.lists(st.integers(1, 9)))
def test_wiretap_reads_any_pieces(sizes: list[int]) -> None:
    events = told(TALK + encode(DISCONNECT, 0, b""), sizes)
    assert [event.e for event in events] == ["connect", "publish", "publish", "disconnect"]
    assert not events[0].clean
    assert events[0].keepalive_s == 30
    assert events[0].will is not None
    assert (events[0].will.topic, events[0].will.payload, events[0].will.qos,
            events[0].will.retain) == ("d/status", b"offline", 1, True)
    assert (events[1].c, events[1].payload, events[1].qos, events[1].dup) == (
        "d", b"\xff\x00", 2, True)
    assert events[2].retain


def test_wiretap_end_without_goodbye_is_a_cut() -> None:
    assert told(TALK, [])[-1].e == "cut"


def test_wiretap_reads_mqtt_5() -> None:
    body = b"\0\4MQTT\5\6\0\x3c\5\x11\0\0\0\x0a\0\1d\0\0\1w\0\2by"
    topic = b"\0\1t\0\7\3\x23\0\1hello"
    events = told(encode(1, 0, body) + encode(3, 2, topic), [])
    assert [(event.e, event.topic, event.payload) for event in events[:2]] == [
        ("connect", "", b""), ("publish", "t", b"hello")]
    assert events[0].will is not None
    assert (events[0].keepalive_s, events[0].will.payload) == (60, b"by")


@given(st.binary(min_size=1, max_size=60))
def test_wiretap_bears_garbage(data: bytes) -> None:
    told(data, [3, 5])
    told(HELLO + data, [3, 5])


def test_wiretap_counts_what_began_before() -> None:
    tap = Wiretap(lambda event: pytest.fail(str(event)))
    tap.feed("x", 0, TALK[len(HELLO):])
    tap.end("x", 1)
    assert tap.unreadable == 1


# a capture


def segment(seq: int, data: bytes, flags: int = dpkt.tcp.TH_ACK, *, back: bool = False) -> bytes:
    ports = (1883, 50000) if back else (50000, 1883)
    tcp = dpkt.tcp.TCP(sport=ports[0], dport=ports[1], seq=seq % (1 << 32), flags=flags,
                       data=data)
    ip = dpkt.ip.IP(src=b"\x7f\0\0\1", dst=b"\x7f\0\0\1", p=6, data=tcp, len=40 + len(data))
    return bytes(dpkt.ethernet.Ethernet(data=ip, type=0x0800))


def capture(path: Path, frames: list[bytes], kind: str = "pcap") -> Path:
    with path.open("wb") as file:
        writer = getattr(dpkt, kind).Writer(file)
        for number, frame in enumerate(frames):
            writer.writepkt(frame, ts=1_700_000_000 + number / 1000)
    return path


def pieces(stream: bytes, begin: int, size: int) -> list[tuple[int, bytes]]:
    return [(begin + at, stream[at : at + size]) for at in range(0, len(stream), size)]


@pytest.mark.parametrize("kind", ["pcap", "pcapng"])
@pytest.mark.parametrize("seed", range(8))
def test_pcap_is_put_together_from_any_order(tmp_path: Path, kind: str, seed: int) -> None:
    rng = random.Random(seed)
    first = rng.choice([1000, (1 << 32) - 20])  # sequence numbers wrap
    parts = pieces(TALK, first + 1, 7)
    wild = [*parts, *rng.sample(parts, 3), (first + 4, TALK[3:20])]  # sent again; overlapping
    rng.shuffle(wild)
    end = first + 1 + len(TALK)
    path = capture(tmp_path / "c", [
        segment(first, b"", dpkt.tcp.TH_SYN), *(segment(seq, data) for seq, data in wild),
        segment(7, b"\x20\2\0\0", back=True),
        segment(end, encode(DISCONNECT, 0, b"")), segment(end + 2, b"", dpkt.tcp.TH_FIN)], kind)
    events = list(import_pcap(path))
    assert [event.e for event in events] == ["connect", "publish", "publish", "disconnect"]
    assert events[1].payload == b"\xff\x00"
    assert events[0].t >= 1_000_000
    assert [event.t for event in events] == sorted(event.t for event in events)


@pytest.mark.parametrize(("back", "flags"), [(False, dpkt.tcp.TH_RST), (True, dpkt.tcp.TH_RST),
                                             (True, dpkt.tcp.TH_FIN)])
def test_pcap_end_without_disconnect_is_a_cut(tmp_path: Path, back: bool, flags: int) -> None:
    end = 101 + len(TALK)
    frames = [segment(100, b"", dpkt.tcp.TH_SYN), segment(101, TALK),
              segment(9 if back else end, b"", flags, back=back)]
    assert list(import_pcap(capture(tmp_path / "c", frames)))[-1].e == "cut"


def test_pcap_hole_ends_what_can_be_read(tmp_path: Path) -> None:
    parts = pieces(TALK, 101, 7)
    lost = len(HELLO) // 7 + 1
    frames = [segment(100, b"", dpkt.tcp.TH_SYN),
              *(segment(seq, data) for index, (seq, data) in enumerate(parts) if index != lost),
              segment(101 + len(TALK), b"", dpkt.tcp.TH_RST)]
    assert [event.e for event in import_pcap(capture(tmp_path / "c", frames))] == [
        "connect", "cut"]


def test_pcap_without_mqtt_says_so(tmp_path: Path) -> None:
    frames = [segment(101, TALK[len(HELLO):])]
    with pytest.raises(RecordingError, match="1 began before the capture"):
        list(import_pcap(capture(tmp_path / "c", frames)))
    (tmp_path / "d").write_text("no capture")
    with pytest.raises(RecordingError, match="not a pcap"):
        list(import_pcap(tmp_path / "d"))
