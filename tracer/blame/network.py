"""Whether a network may be named: by what shows there, not by time that is left over.

What neither host accounts for is put down to the network in the ledger. On hosts that are
busy, or emulated, some of it always is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from tracer.blame.hosts import nfsd_restarted
from tracer.model import HostCapture

# RPCs that went unanswered, or whose connection was lost.
_BROKEN: Final = frozenset({"retransmit", "timeout", "disconnect"})
# A delay that a packet filter caused, see calls.VFS_OPS.
_PACKET: Final = "packet"
# A segment now and then is repeated on any network.
_REPEATED_PER_S: Final = 0.2


def is_at_fault(captures: Sequence[HostCapture], threshold_us: int) -> bool:
    """Return whether RPCs or TCP segments were repeated, or every other RPC was slow.

    Not where a process held packets back, or a server's threads were stopped: they are
    repeated for that.
    """
    return not _explained(captures) and (
        any(row.kind in _BROKEN and row.side == "client" for one in captures for row in one.counts)
        or any(_repeated_per_s(one) >= _REPEATED_PER_S for one in captures)
        or _is_mostly_slow(captures, threshold_us / 2)
    )


def _explained(captures: Sequence[HostCapture]) -> bool:
    packets = any(op.op == _PACKET for one in captures for op in one.operations)
    return packets or any(map(nfsd_restarted, captures))


def _repeated_per_s(capture: HostCapture) -> float:
    rates = [row.value for row in capture.samples if row.metric == "retrans_segs_per_s"]
    return sum(rates) / len(rates) if rates else 0.0


def _is_mostly_slow(captures: Iterable[HostCapture], least_us: float) -> bool:
    """Return whether every other RPC took this long, without its wait for a slot.

    Those that did stand among the operations one by one.
    """
    slow = count = 0
    for capture in captures:
        rpcs = (op for op in capture.operations if op.side == "client" and op.layer == "rpc")
        slow += sum(op.wall_us - (op.slot_us or 0) >= least_us for op in rpcs if not op.in_flight)
        for row in capture.latency:
            if row.side == "client" and row.layer == "rpc":
                count += sum(row.counts.values())
    return count > 0 and slow * 2 >= count
