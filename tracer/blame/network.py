"""Whether a network may be named: by what shows there, not by time that is left over.

What neither host accounts for is put down to the network in the ledger. On hosts that are
busy, or emulated, some of it always is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
# Acknowledgements that come late make a host repeat what it then hears was there (D-SACK); where
# that is not said, much of it may be repeated for nothing.
_LOSSY_SHARE: Final = 0.01


def is_at_fault(
    captures: Sequence[HostCapture],
    join: Join,
    threshold_us: int,
    behind_us: Callable[[int, Operation], float],
) -> bool:
    """Return whether RPCs or TCP segments were repeated, or every other RPC was long on its way.

    ``behind_us``: how long a client's RPC was behind others' data; that is a load, not a fault.

    Not where a process held packets back, or a server's threads were stopped: they are
    repeated for that.
    """
    return not _explained(captures) and (
        _is_broken(captures)
        or any(_repeats(one, _REPEATED_SHARE) for one in captures)
        or _is_mostly_slow(captures, join, threshold_us / 2, behind_us)
    )


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


def _is_mostly_slow(
    captures: Sequence[HostCapture],
    join: Join,
    least_us: float,
    behind_us: Callable[[int, Operation], float],
) -> bool:
    """Return whether every other RPC took this long, without its slot and the server's part.

    Those that did stand among the operations one by one.
    """
    slow = count = 0
    for index, capture in enumerate(captures):
        rpcs = (op for op in capture.operations if op.side == "client" and op.layer == "rpc")
        slow += sum(
            _on_its_way_us(index, op, join) - behind_us(index, op) >= least_us
            for op in rpcs
            if not op.in_flight
        )
        for row in capture.latency:
            if row.side == "client" and row.layer == "rpc":
                count += sum(row.counts.values())
    return count > 0 and slow * 2 >= count


def _on_its_way_us(client: int, rpc: Operation, join: Join) -> int:
    at_server = join.server_operation(client, rpc)
    return wall_us(rpc) - (rpc.slot_us or 0) - (wall_us(at_server[1]) if at_server else 0)
