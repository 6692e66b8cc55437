"""Packets in netfilter queues, in a kernel memory laid out by hand."""

from __future__ import annotations

import socket
import struct

import pytest
from kernel_memory import FakeMemory

from tracer.queued_packets import can_look, queued_packets
from tracer.records import OP_BEGIN_UNKNOWN, SIDE_CLIENT, SIDE_SERVER

IPV4, IPV6 = 2, 10
LOCAL_IN, FORWARD, LOCAL_OUT = 1, 2, 3
HEADROOM = 64
THIS, OTHER = "192.0.2.1", "192.0.2.9"
MAPPED = bytes(10) + b"\xff\xff" + socket.inet_aton(OTHER)


class Queues:
    """A network namespace with one queue in each of two buckets, one of them empty."""

    def __init__(self) -> None:
        self.memory = FakeMemory()
        self.own = self.memory.struct()
        self.entries: list[int] = []
        link = self.memory.offset("nfqnl_instance.hlist")
        self.queue, empty = self.memory.struct(), self.memory.struct()
        table = [0] * 16
        table[3], table[9] = empty + link, self.queue + link
        self.memory.put(self.own, "nfnl_queue_net.instance_table", struct.pack("<16Q", *table))
        for queue in (self.queue, empty):
            self.memory.put(queue, "nfqnl_instance.hlist", 0)
            self.memory.link(queue + self.memory.offset("nfqnl_instance.queue_list"), [])

    def add(
        self,
        ports: tuple[int, int],
        hook: int = LOCAL_IN,
        family: int = IPV4,
        protocol: int = socket.IPPROTO_TCP,
    ) -> int:
        """Put a packet into the queue, from OTHER to THIS on the way in, else back."""
        memory, entry, skb, head = self.memory, *(self.memory.struct() for _ in range(3))
        state = entry + memory.offset("nf_queue_entry.state")
        memory.put(state, "nf_hook_state.hook", hook, 1)
        memory.put(state, "nf_hook_state.pf", family, 1)
        memory.put(entry, "nf_queue_entry.skb", skb)
        memory.put(skb, "sk_buff.head", head)
        memory.put(skb, "sk_buff.network_header", HEADROOM, 2)
        memory.put(skb, "sk_buff.transport_header", HEADROOM + 40, 2)
        hosts = (OTHER, THIS) if hook == LOCAL_IN else (THIS, OTHER)
        if family == IPV4:
            addresses = b"".join(map(socket.inet_aton, hosts))
            header = bytes(9) + bytes([protocol, 0, 0]) + addresses + bytes(20)
        else:
            addresses = b"".join(socket.inet_pton(socket.AF_INET6, f"::{h}") for h in hosts)
            header = bytes(6) + bytes([protocol, 0]) + addresses
        memory.write(head + HEADROOM, header + struct.pack(">HH", *ports))
        self.entries.append(entry)
        link = memory.offset("nf_queue_entry.list")
        queued = self.queue + memory.offset("nfqnl_instance.queue_list")
        memory.link(queued, [one + link for one in self.entries])
        return entry


@pytest.fixture
def queues() -> Queues:
    return Queues()


def test_no_packet(queues: Queues) -> None:
    assert not list(queued_packets(queues.memory, queues.own, 7))


@pytest.mark.parametrize(
    ("ports", "hook", "side"),
    [
        ((777, 2049), LOCAL_IN, SIDE_SERVER),
        ((2049, 777), LOCAL_OUT, SIDE_SERVER),
        ((777, 2049), LOCAL_OUT, SIDE_CLIENT),
        ((2049, 777), LOCAL_IN, SIDE_CLIENT),
    ],
)
def test_whose_packet_it_is(queues: Queues, ports: tuple[int, int], hook: int, side: int) -> None:
    entry = queues.add(ports, hook)
    ((found, held),) = queued_packets(queues.memory, queues.own, 7)
    assert (found, held.side, held.since_ns, held.flags) == (entry, side, 7, OP_BEGIN_UNKNOWN)
    assert bytes(held.peer) == MAPPED


def test_an_address_of_ipv6_stands_as_it_is(queues: Queues) -> None:
    queues.add((777, 2049), family=IPV6)
    ((_, held),) = queued_packets(queues.memory, queues.own, 7)
    assert bytes(held.peer) == socket.inet_pton(socket.AF_INET6, f"::{OTHER}")


def test_others_packets_are_left_out(queues: Queues) -> None:
    queues.add((777, 22))
    queues.add((777, 2049), hook=FORWARD)
    queues.add((777, 2049), family=7)
    queues.add((777, 2049), protocol=socket.IPPROTO_UDP)
    ours = queues.add((777, 2049))
    assert [entry for entry, _ in queued_packets(queues.memory, queues.own, 7)] == [ours]


def test_a_packet_that_is_gone_is_left_out(queues: Queues) -> None:
    gone = queues.add((777, 2049))
    del queues.memory.bytes[gone + queues.memory.offset("nf_queue_entry.skb")]
    assert not list(queued_packets(queues.memory, queues.own, 7))


def test_the_kernel_may_not_tell_how_its_queues_are_laid_out(queues: Queues) -> None:
    assert can_look(queues.memory)
    del queues.memory.layout["OFF_nfqnl_instance__queue_list"]
    assert not can_look(queues.memory)
