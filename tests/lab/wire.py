"""RPC messages on the wire, from what tcpdump captured with times in nanoseconds."""

from __future__ import annotations

import struct
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

NANOSECONDS = 0xA1B23C4D
ETHERNET_BYTES = 14
TCP, SYN = 6, 2
LAST_FRAGMENT = 1 << 31
CALL = 0


@dataclass(frozen=True, slots=True)
class Message:
    """A call or a reply, and when its first and its last byte passed."""

    xid: int
    is_call: bool
    first_us: float
    last_us: float


Exchanges = dict[int, tuple[Message, Message]]
"""xid -> call and reply."""


@dataclass(slots=True)
class Stream:
    """One direction of a connection: its bytes, and when those up to each end passed."""

    begin: int
    data: bytearray = field(default_factory=bytearray)
    ends: list[int] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    early: dict[int, tuple[float, bytes]] = field(default_factory=dict)

    def add(self, us: float, seq: int, payload: bytes) -> None:
        """Takes a segment; what was sent again passed when it did so first."""
        self.early.setdefault((seq - self.begin) % (1 << 32), (us, payload))
        while found := self.early.pop(len(self.data), None):
            self.data += found[1]
            self.ends.append(len(self.data))
            self.times.append(found[0])

    def at(self, offset: int) -> float:
        """When the byte passed."""
        return self.times[bisect_right(self.ends, offset)]

    def messages(self) -> Iterator[Message]:
        """What was sent, each in one fragment, as Linux does."""
        at = 0
        while at + 12 <= len(self.data):
            mark, xid, kind = struct.unpack_from(">3I", self.data, at)
            assert mark & LAST_FRAGMENT, "the capture does not begin with a message"
            end = at + 4 + mark % LAST_FRAGMENT
            if end <= len(self.data):
                yield Message(xid, kind == CALL, self.at(at), self.at(end - 1))
            at = end


def packets(pcap: bytes, clock_us: int) -> Iterator[tuple[float, bytes]]:
    """Times, by a clock that is so much behind the wall clock, and frames."""
    assert struct.unpack_from("<I", pcap)[0] == NANOSECONDS
    at = 24
    while at < len(pcap):
        seconds, ns, length, _ = struct.unpack_from("<4I", pcap, at)
        yield seconds * 1_000_000 - clock_us + ns / 1000, pcap[at + 16 : at + 16 + length]
        at += 16 + length


def messages(pcap: bytes, clock_us: int) -> list[Message]:
    """All RPC messages over TCP and IPv4, on connections that were idle when capturing began."""
    streams: dict[bytes, Stream] = {}
    for us, frame in packets(pcap, clock_us):
        ip = frame[ETHERNET_BYTES:]
        if ip[9] != TCP:
            continue
        header = ip[0] % 16 * 4
        tcp = ip[header : struct.unpack_from(">H", ip, 2)[0]]
        (seq,) = struct.unpack_from(">I", tcp, 4)
        payload = tcp[tcp[12] // 16 * 4 :]
        ends = ip[12:20] + tcp[:4]
        if tcp[13] & SYN:
            streams[ends] = Stream(seq + 1)
        elif payload:
            streams.setdefault(ends, Stream(seq)).add(us, seq, payload)
    return [message for stream in streams.values() for message in stream.messages()]


def exchanges(pcap: bytes, clock_us: int) -> Exchanges:
    """What was asked once and answered once."""
    found: dict[int, list[Message]] = defaultdict(list)
    for message in messages(pcap, clock_us):
        found[message.xid].append(message)
    return {
        xid: (call, reply)
        for xid, both in found.items()
        if len(both) == 2
        for call, reply in [sorted(both, key=lambda message: not message.is_call)]
        if call.is_call and not reply.is_call
    }
