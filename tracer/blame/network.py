"""Whether a network may be named, by what shows there and not by time that is left over.

What neither host accounts for is put down to the network in the ledger. On hosts that are
busy, or emulated, some of it always is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import IntEnum
from typing import Final

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
_PLAIN_SHARE: Final = 0.05
# TCP's round trip is an average that follows what it measures slowly.
_OF_WAY: Final = 0.5
_SEVERAL: Final = 2
# Acknowledgements that come late make a host repeat what it then hears was there (D-SACK); where
# that is not said, much of it may be repeated for nothing.
_LOSSY_SHARE: Final = 0.01


class Evidence(IntEnum):
    """How plainly a network shows to be at fault."""

    NONE = 0
    SOME = 1  # a busy or emulated host makes the like
    PLAIN = 2


def evidence(
    captures: Sequence[HostCapture],
    join: Join,
    threshold_us: int,
    behind_us: Callable[[int, Operation], float],
    rtt_us: Callable[[int, Operation], float | None],
) -> Evidence:
    """Return whether RPCs or TCP segments were repeated, or RPCs were long on their way.

    Every other RPC of all, or every other of those that were, with TCP's own round trip as long:
    that is plain, and so are very many segments.
    ``behind_us``: how long a client's RPC was behind others' data; that is a load, not a fault.
    ``rtt_us``: TCP's round trip while it was on its way, None if that is not known.

    Not where a process held packets back, or a server's threads were stopped: they are
    repeated for that.
    """
    if _explained(captures):
        return Evidence.NONE
    slow = list(_slow_ways(captures, join, threshold_us / 2, behind_us))
    trips = ((us, rtt_us(index, rpc)) for index, rpc, us in slow)
    far = [trip >= us * _OF_WAY for us, trip in trips if trip is not None]
    is_far = len(far) >= _SEVERAL and sum(far) * 2 >= len(far)
    if is_far or any(_repeats(one, _PLAIN_SHARE) for one in captures):
        return Evidence.PLAIN
    is_known = (
        _is_broken(captures)
        or any(_repeats(one, _REPEATED_SHARE) for one in captures)
        or 0 < sum(one.rpcs_ended("client") for one in captures) <= 2 * len(slow)
    )
    return Evidence.SOME if is_known else Evidence.NONE


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


def _slow_ways(
    captures: Sequence[HostCapture],
    join: Join,
    least_us: float,
    behind_us: Callable[[int, Operation], float],
) -> Iterator[tuple[int, Operation, float]]:
    """Yield capture, RPC and time of those that were so long on their way, and no one's.

    They stand among the operations one by one.
    """
    for index, capture in enumerate(captures):
        for op in capture.operations:
            if op.side == "client" and op.layer == "rpc" and not op.in_flight:
                us = _on_its_way_us(index, op, join) - behind_us(index, op)
                if us >= least_us:
                    yield index, op, us


def _on_its_way_us(client: int, rpc: Operation, join: Join) -> int:
    """Return how long an RPC took without its slot and the server's part."""
    at_server = join.server_operation(client, rpc)
    return wall_us(rpc) - (rpc.slot_us or 0) - (wall_us(at_server[1]) if at_server else 0)
