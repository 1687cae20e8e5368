"""MQTT over TCP out of a pcap or pcapng file: frames taken apart by dpkt, streams put together.

Rules:
- A packet belongs to a connection (client's address and port, broker's address and port); the
  broker's side is the one with one of `ports`.
- Bytes are handed on in the order of their sequence numbers, each once: what comes early waits,
  what comes again is dropped. A hole that is not filled when the connection ends, or when more
  than MOST_EARLY bytes wait behind it, makes the connection unreadable from there.
- Times are those of the frame that completed the bytes.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import dpkt

from tools.hil.recording import Event, RecordingError
from tools.hil.wiretap import Wiretap

MOST_EARLY = 4 << 20
DLT_LINUX_SLL2 = 276
_WRAP = 1 << 32


class Connection(NamedTuple):
    """Who talks to whom."""

    client: str
    client_port: int
    broker: str
    broker_port: int
    life: int


@dataclass
class _Flow:
    """The client's half of a connection."""

    connection: Connection
    expected: int | None = None
    early: dict[int, bytes] = field(default_factory=dict)
    ended: bool = False

    def take(self, seq: int, data: bytes) -> bytes:
        """Return what is in order now."""
        if self.expected is None:
            self.expected = seq
        if data:
            ahead = (seq - self.expected) % _WRAP
            if ahead >= _WRAP // 2:  # begins with what we have
                data, seq = data[_WRAP - ahead :], self.expected
            if data and len(data) > len(self.early.get(seq, b"")):
                self.early[seq] = data
        out = b""
        while True:
            for begin in list(self.early):
                ahead = (begin - self.expected) % _WRAP
                if ahead >= _WRAP // 2:
                    rest = self.early.pop(begin)[_WRAP - ahead :]
                    if len(rest) > len(self.early.get(self.expected, b"")):
                        self.early[self.expected] = rest
            piece = self.early.pop(self.expected, b"")
            if not piece:
                return out
            out += piece
            self.expected = (self.expected + len(piece)) % _WRAP


class Reassembly:
    """Takes frames and feeds a Wiretap."""

    def __init__(self, tap: Wiretap, ports: Collection[int]) -> None:
        self._tap, self._ports = tap, ports
        self._flows: dict[tuple[str, int, str, int], _Flow] = {}
        self._lives = 0

    def frame(self, t_ns: int, packet: Any) -> None:
        """Take an IP packet."""
        segment = packet.data
        if not isinstance(segment, dpkt.tcp.TCP):
            return
        family = socket.AF_INET if isinstance(packet, dpkt.ip.IP) else socket.AF_INET6
        source, target = (socket.inet_ntop(family, packet.src),
                          socket.inet_ntop(family, packet.dst))
        if segment.dport in self._ports:
            self._from_client((source, segment.sport, target, segment.dport), t_ns, segment)
        elif segment.sport in self._ports and segment.flags & (dpkt.tcp.TH_RST | dpkt.tcp.TH_FIN):
            self._end((target, segment.dport, source, segment.sport), t_ns)

    def _from_client(self, names: tuple[str, int, str, int], t_ns: int, segment: Any) -> None:
        seq = segment.seq
        if segment.flags & dpkt.tcp.TH_SYN:
            flow = self._flows.get(names)
            seq = (seq + 1) % _WRAP
            if flow is None or flow.ended or flow.expected != seq:
                self._end(names, t_ns)
                flow = self._new(names)
                flow.expected = seq
        flow = self._flows.get(names) or self._new(names)
        if flow.ended:
            return
        data = flow.take(seq, bytes(segment.data))
        if data:
            self._tap.feed(flow.connection, t_ns, data)
        if sum(map(len, flow.early.values())) > MOST_EARLY:
            flow.early.clear()
            self._tap.gap(flow.connection)
        last = (seq + len(segment.data)) % _WRAP
        if segment.flags & dpkt.tcp.TH_RST or (
                segment.flags & dpkt.tcp.TH_FIN and last == flow.expected):
            self._end(names, t_ns)

    def _new(self, names: tuple[str, int, str, int]) -> _Flow:
        self._lives += 1
        flow = self._flows[names] = _Flow(Connection(*names, self._lives))
        return flow

    def _end(self, names: tuple[str, int, str, int], t_ns: int) -> None:
        flow = self._flows.get(names)
        if flow is None or flow.ended:
            return
        if flow.early:
            self._tap.gap(flow.connection)
        flow.ended = True
        flow.early.clear()
        self._tap.end(flow.connection, t_ns)


def _ip_of(link: int, frame: bytes) -> Any:
    """Return the IP packet in a frame, None where it holds none that can be read."""
    try:
        if link == dpkt.pcap.DLT_EN10MB:
            packet = dpkt.ethernet.Ethernet(frame).data
        elif link == dpkt.pcap.DLT_LINUX_SLL:
            packet = dpkt.sll.SLL(frame).data
        elif link == DLT_LINUX_SLL2:
            packet = dpkt.sll2.SLL2(frame).data
        elif link in (dpkt.pcap.DLT_NULL, dpkt.pcap.DLT_LOOP):
            packet = dpkt.loopback.Loopback(frame).data
        elif link in (dpkt.pcap.DLT_RAW, 12, 14):  # 12, 14: what some systems call it
            packet = (dpkt.ip.IP if frame[0] >> 4 == 4 else dpkt.ip6.IP6)(frame)
        else:
            raise RecordingError(f"frames of link type {link} are not understood; capture on "
                                 "Ethernet, `-i any` or loopback")
    except (dpkt.UnpackError, IndexError):
        return None
    return packet if isinstance(packet, (dpkt.ip.IP, dpkt.ip6.IP6)) else None


def _frames(file: BinaryIO) -> Iterator[tuple[int, int, bytes]]:
    """Give (link type, time [ns], frame)."""
    reader = dpkt.pcap.UniversalReader(file)
    link = reader.datalink()
    for seconds, frame in reader:
        yield link, round(float(seconds) * 1e6) * 1000, frame


def import_pcap(path: Path, ports: Collection[int] = (1883,), *,
                on_begin: Callable[[datetime], None] = lambda when: None) -> Iterator[Event]:
    """Read what MQTT clients said in a pcap or pcapng file, as events. Raises RecordingError.

    on_begin: gets the time of the first frame, before any event is given. Held in memory are the
    bytes that wait for a hole to be filled, not the file.
    """
    ready: list[Event] = []
    tap = Wiretap(ready.append)
    reassembly = Reassembly(tap, ports)
    began_ns: int | None = None
    last_ns = events = 0
    try:
        with path.open("rb") as file:
            for link, at_ns, frame in _frames(file):
                if began_ns is None:
                    began_ns = at_ns
                    on_begin(datetime.fromtimestamp(at_ns / 1e9, UTC))
                last_ns = max(last_ns, at_ns - began_ns)
                packet = _ip_of(link, frame)
                if packet is not None:
                    reassembly.frame(last_ns, packet)
                events += len(ready)
                yield from ready
                ready.clear()
    except (OSError, ValueError, dpkt.Error) as error:
        raise RecordingError(f"{path}: not a pcap or pcapng file that can be read: "
                             f"{error}") from error
    if not events:
        ports_text = ", ".join(map(str, sorted(ports)))
        raise RecordingError(f"{path}: no MQTT connection to port {ports_text} in it that begins "
                             f"with its CONNECT ({tap.unreadable} began before the capture)")
