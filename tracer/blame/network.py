"""Whether a network may be named: by what shows there, not by time that is left over.

What neither host accounts for is put down to the network in the ledger. On hosts that are
busy, or emulated, some of it always is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

from tracer.blame.hosts import nfsd_restarted
from tracer.blame.intervals import wall_us
from tracer.blame.join import Join
from tracer.model import HostCapture, Operation

# RPCs that went unanswered, or whose connection was lost.
_BROKEN: Final = frozenset({"retransmit", "timeout", "disconnect"})
# A delay that a packet filter caused, see calls.VFS_OPS.
_PACKET: Final = "packet"
# A segment now and then is repeated on any network, and one in thousands of a bulk transfer.
_REPEATED_PER_S: Final = 0.2
_REPEATED_SHARE: Final = 0.001
# TCP's round trip is an average that follows what it measures slowly.
_OF_WAY: Final = 0.5
_SEVERAL: Final = 2
# Acknowledgements that come late make a host repeat what it then hears was there (D-SACK); where
# that is not said, much of it may be repeated for nothing.
_LOSSY_SHARE: Final = 0.01


def is_at_fault(
    captures: Sequence[HostCapture],
    join: Join,
    threshold_us: int,
    behind_us: Callable[[int, Operation], float],
) -> bool:
    """Return whether RPCs or TCP segments were repeated, or RPCs were long on their way.

    Every other RPC of all, or every other of those that were, with TCP's own round trip as long.
    ``behind_us``: how long a client's RPC was behind others' data; that is a load, not a fault.

    Not where a process held packets back, or a server's threads were stopped: they are
    repeated for that.
    """
    if _explained(captures):
        return False
    if _is_broken(captures) or any(_repeats(one, _REPEATED_SHARE) for one in captures):
        return True
    slow = list(_slow_ways(captures, join, threshold_us / 2, behind_us))
    far = [way.rtt_us >= way.us * _OF_WAY for way in slow if way.rtt_us is not None]
    is_far = len(far) >= _SEVERAL and sum(far) * 2 >= len(far)
    return is_far or 0 < _count(captures) <= 2 * len(slow)


def is_lossy(sender: HostCapture, client: HostCapture) -> bool:
    """Return whether a host had to repeat so much that all it sends is late for that alone."""
    return _is_broken([client]) or _repeats(sender, _LOSSY_SHARE)


def _is_broken(captures: Sequence[HostCapture]) -> bool:
    return any(
        row.kind in _BROKEN and row.side == "client" for one in captures for row in one.counts
    )


def _explained(captures: Sequence[HostCapture]) -> bool:
    packets = any(op.op == _PACKET for one in captures for op in one.operations)
    return packets or any(map(nfsd_restarted, captures))


def _repeats(capture: HostCapture, share: float) -> bool:
    """Return whether a host has to repeat TCP segments, this part of all or more."""
    repeated, for_nothing, sent = (
        _average(capture, metric)
        for metric in ("retrans_segs_per_s", "dsack_recv_segs_per_s", "out_segs_per_s")
    )
    return repeated - for_nothing >= max(_REPEATED_PER_S, sent * share)


def _average(capture: HostCapture, metric: str) -> float:
    values = [row.value for row in capture.samples if row.metric == metric]
    return sum(values) / len(values) if values else 0.0


class _Way(NamedTuple):
    """How long an RPC was on its way, and TCP's round trip then, if the server recorded it."""

    us: float
    rtt_us: int | None


def _slow_ways(
    captures: Sequence[HostCapture],
    join: Join,
    least_us: float,
    behind_us: Callable[[int, Operation], float],
) -> Iterator[_Way]:
    """Yield the RPCs that took this long, without their slots and the servers' parts.

    They stand among the operations one by one.
    """
    for index, capture in enumerate(captures):
        for op in capture.operations:
            if op.side == "client" and op.layer == "rpc" and not op.in_flight:
                way = _way(index, op, join)
                us = way.us - behind_us(index, op)
                if us >= least_us:
                    yield way._replace(us=us)


def _way(client: int, rpc: Operation, join: Join) -> _Way:
    located = join.server_operation(client, rpc)
    us = wall_us(rpc) - (rpc.slot_us or 0)
    if located is None:
        return _Way(us, None)
    at_server = located[1]
    return _Way(us - wall_us(at_server), at_server.rtt_us)


def _count(captures: Sequence[HostCapture]) -> int:
    """Return how many RPCs the clients sent in all."""
    return sum(
        sum(row.counts.values())
        for capture in captures
        for row in capture.latency
        if row.side == "client" and row.layer == "rpc"
    )
