"""Which operations count as stalls: each wait of a user once, though several ends see it."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from tracer.blame.charge import Bill, bill
from tracer.blame.hosts import Host
from tracer.blame.intervals import spans, wall_us
from tracer.blame.ledger import Ledger
from tracer.blame.parallel import shares_us
from tracer.model import Operation, ProcessKey

# By which a client keeps its lease and gives up what it needs no longer, in the background:
# whoever waits for one that does not come back has an RPC of his own.
_UPKEEP: Final = frozenset({"SEQUENCE", "RENEW", "DELEGRETURN", "FREE_STATEID"})


@dataclass(frozen=True, slots=True)
class Victim:
    """Who had to wait. On a server's own capture only the client's address is known."""

    host: str
    comm: str | None = None
    process: ProcessKey | None = None

    @property
    def pid(self) -> int | None:
        """Return the process id; a later process may have it, too."""
        return self.process.pid if self.process else None


@dataclass(frozen=True, slots=True)
class Stall:
    """A counted operation over the threshold, with the bill of the time it counts.

    ``stall_us`` is its wall time; but background work of a mount has many RPCs under way
    at once and nobody who waits for each, so theirs is what they add to the time in which
    any of it was stalled.
    """

    operation: Operation
    victim: Victim
    stall_us: int
    bill: Bill

    @property
    def wall_us(self) -> int:
        """Return how long it took, or has taken so far."""
        return wall_us(self.operation)


def counted(ledger: Ledger) -> list[Stall]:
    """Return the stalls: client calls, RPCs no call accounts for, RPCs no client accounts for."""
    calls = {
        index: [op for op in host.calls.values() if _is_outer_stall(host, op)]
        for index, host in enumerate(ledger.hosts)
    }
    stalls = [_stall(ledger, index, op) for index, ops in calls.items() for op in ops]
    for index, host in enumerate(ledger.hosts):
        covered = _Cover(calls[index])
        waited_for = ledger.remote.waited_for(calls[index])
        rpcs = [
            rpc
            for rpc in host.rpcs
            if over_threshold(host, rpc)
            and id(rpc) not in waited_for
            and not covered.accounts_for(rpc)
        ]
        stalls += [_stall(ledger, index, rpc) for rpc in rpcs if rpc.process is not None]
        nobodys = [rpc for rpc in rpcs if rpc.process is None and rpc.op not in _UPKEEP]
        stalls += _background(ledger, index, nobodys)
    for index, host in enumerate(ledger.hosts):
        stalls += [
            _stall(ledger, index, op)
            for op in host.served
            if over_threshold(host, op) and not _seen_by_client(ledger, index, op)
        ]
    return stalls


def over_threshold(host: Host, op: Operation) -> bool:
    """Return whether an operation is a stall; waiting for work is none."""
    threshold = host.capture.threshold_us
    if wall_us(op) < threshold:
        return False
    idle = sum(
        span.total_us
        for span in spans(op)
        if host.suspects.finding(span.wait, op.side).wait_class == "idle"
    )
    return wall_us(op) - idle >= threshold


def victim_of(ledger: Ledger, index: int, op: Operation) -> Victim:
    """Return who waited for an operation."""
    host = ledger.hosts[index].capture
    if op.side == "client":
        comm = op.comm
        if comm is None and op.process is not None and op.process in host.processes:
            comm = host.processes[op.process].comm
        return Victim(host.host, comm, op.process)
    client = ledger.join.client_at(index, op.peer)
    if client is not None:
        return Victim(ledger.hosts[client].capture.host)
    return Victim(op.peer or "unknown client")


def _stall(ledger: Ledger, index: int, op: Operation) -> Stall:
    return Stall(op, victim_of(ledger, index, op), wall_us(op), ledger.bill(index, op))


def _background(ledger: Ledger, index: int, rpcs: Iterable[Operation]) -> list[Stall]:
    """Return RPCs that no process sent, the time of those of a mount counted once."""
    by_mount: defaultdict[str | None, list[Operation]] = defaultdict(list)
    for rpc in rpcs:
        by_mount[rpc.mount].append(rpc)
    stalls = []
    for together in by_mount.values():
        times = [(rpc.begin_mono_us, rpc.begin_mono_us + wall_us(rpc)) for rpc in together]
        for rpc, share_us in zip(together, shares_us(times), strict=True):
            part = bill(share_us, ledger.bill(index, rpc))
            stalls.append(Stall(rpc, victim_of(ledger, index, rpc), share_us, part))
    return stalls


def _is_outer_stall(host: Host, op: Operation) -> bool:
    return op.parent_id not in host.calls and over_threshold(host, op)


def _seen_by_client(ledger: Ledger, index: int, op: Operation) -> bool:
    """Return whether the client's capture accounts for an operation of the server.

    An operation that began before recording has no RPC in the client's capture; if
    that client was stuck before recording as well, its calls stand for it.
    """
    if ledger.join.is_joined(index, op):
        return True
    if op.begin_known:
        return False
    client = ledger.join.client_at(index, op.peer)
    return client is not None and any(
        call.in_flight and not call.begin_known for call in ledger.hosts[client].calls.values()
    )


class _Cover:
    """The times in which each process was in a counted call."""

    def __init__(self, calls: Iterable[Operation]) -> None:
        self._ids = set()
        by_process: defaultdict[ProcessKey, list[Operation]] = defaultdict(list)
        for call in calls:
            self._ids.add(call.op_id)
            if call.process is not None:
                by_process[call.process].append(call)
        self._times = {process: _begins_and_ends(ops) for process, ops in by_process.items()}

    def accounts_for(self, rpc: Operation) -> bool:
        """Return whether an RPC's time is that of a counted call of the same process."""
        if rpc.parent_id in self._ids:
            return True
        if rpc.process not in self._times:
            return False
        begins, latest_ends = self._times[rpc.process]
        before = bisect_left(begins, rpc.begin_mono_us + wall_us(rpc))
        return before > 0 and latest_ends[before - 1] > rpc.begin_mono_us


def _begins_and_ends(ops: list[Operation]) -> tuple[list[int], list[int]]:
    """Return begins in order, and for each the latest end among it and those before."""
    ops = sorted(ops, key=lambda op: op.begin_mono_us)
    ends: Iterator[int] = accumulate((op.begin_mono_us + wall_us(op) for op in ops), max)
    return [op.begin_mono_us for op in ops], list(ends)
