"""Packets of NFS that lie in netfilter queues already when recording begins.

``bpf/packets.h`` sees them come and go; these came before. nfnetlink_queue keeps a list for each
queue of each network namespace.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from tracer.kernel.memory import KernelMemory
from tracer.records import OP_BEGIN_UNKNOWN, SIDE_CLIENT, SIDE_SERVER, HeldRec

# Of whose network namespaces the queues are: indexes net->gen.
SYMBOL: Final = "nfnl_queue_net_id"
# nfnetlink_queue may not be loaded, and then its types are not known.
_FIELDS: Final = (
    "nfnl_queue_net.instance_table",
    "nfqnl_instance.hlist",
    "nfqnl_instance.queue_list",
    "nf_queue_entry.list",
    "nf_queue_entry.skb",
    "nf_queue_entry.state",
)
_BUCKETS: Final = 16  # INSTANCE_BUCKETS
_MOST_QUEUES: Final = 1 << 10
_MOST_PACKETS: Final = 1 << 14

_NFS_PORT: Final = 2049
_TCP: Final = 6
# Hooks on the way in, and on the way out; a packet that is forwarded is none of ours.
_IN: Final = frozenset({0, 1})  # NF_INET_PRE_ROUTING, NF_INET_LOCAL_IN
_OUT: Final = frozenset({3, 4})  # NF_INET_LOCAL_OUT, NF_INET_POST_ROUTING


class _Protocol(NamedTuple):
    """Where in a header stand the next protocol and both hosts' addresses.

    ``prefix``: what makes 16 bytes of an address.
    """

    next_at: int
    source_at: int
    target_at: int
    prefix: bytes


_PROTOCOLS: Final = {
    2: _Protocol(9, 12, 16, bytes(10) + b"\xff\xff"),  # NFPROTO_IPV4
    10: _Protocol(6, 8, 24, b""),  # NFPROTO_IPV6
}


def can_look(memory: KernelMemory) -> bool:
    """Return whether the kernel tells how its queues are laid out."""
    return memory.knows(*_FIELDS)


def queued_packets(memory: KernelMemory, own: int, now_ns: int) -> Iterator[tuple[int, HeldRec]]:
    """Yield (struct nf_queue_entry *, record) of each; ``own``: a struct nfnl_queue_net *.

    How long they have been there, nobody knows. The record's op_id is left 0. Only if can_look().
    """
    link = memory.offset("nf_queue_entry.list")
    for queue in _queues(memory, own):
        head = queue + memory.offset("nfqnl_instance.queue_list")
        for entry in memory.list(head, link, _MOST_PACKETS):
            packet = _packet(memory, entry)
            if packet is not None:
                side, peer = packet
                address = (ctypes.c_uint8 * 16)(*peer)
                yield entry, HeldRec(0, now_ns, address, side, OP_BEGIN_UNKNOWN)


def _queues(memory: KernelMemory, own: int) -> Iterator[int]:
    """Yield the struct nfqnl_instance of each queue."""
    for node in memory.pointers(own + memory.offset("nfnl_queue_net.instance_table"), _BUCKETS):
        yield from memory.hlist(node, memory.offset("nfqnl_instance.hlist"), _MOST_QUEUES)


def _packet(memory: KernelMemory, entry: int) -> tuple[int, bytes] | None:
    """Return on which side of NFS we are and the other host; None if it is no packet of NFS."""
    state = entry + memory.offset("nf_queue_entry.state")
    hook = _u8(memory, state + memory.offset("nf_hook_state.hook"))
    protocol = _PROTOCOLS.get(_u8(memory, state + memory.offset("nf_hook_state.pf")) or 0)
    skb = memory.u64(entry, "nf_queue_entry.skb")
    head = memory.u64(skb, "sk_buff.head") if skb else None
    if not skb or not head or protocol is None or hook not in _IN | _OUT:
        return None
    header = memory.read(head + _u16(memory, skb, "sk_buff.network_header"), 40)
    ports = memory.read(head + _u16(memory, skb, "sk_buff.transport_header"), 4)
    if not header or not ports or header[protocol.next_at] != _TCP:
        return None
    source, target = struct.unpack(">HH", ports)
    if _NFS_PORT not in (source, target):
        return None
    comes = hook in _IN
    at = protocol.source_at if comes else protocol.target_at
    peer = protocol.prefix + header[at : at + 16 - len(protocol.prefix)]
    return SIDE_SERVER if comes == (target == _NFS_PORT) else SIDE_CLIENT, peer


def _u8(memory: KernelMemory, address: int) -> int | None:
    data = memory.read(address, 1)
    return data[0] if data else None


def _u16(memory: KernelMemory, address: int, field: str) -> int:
    data = memory.read(address + memory.offset(field), 2)
    return int.from_bytes(data or b"", "little")
