"""One host's capture with the indices that the ledger asks for."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Final, NamedTuple, TypeVar

from tracer.blame.answers import Answers
from tracer.blame.charge import Culprit
from tracer.blame.culprits import Suspects
from tracer.blame.intervals import Span, served_from, spans, taking_up, wall_us
from tracer.blame.join import is_loopback
from tracer.blame.memory import Memory
from tracer.blame.paths import RpcPath
from tracer.blame.peers import Peers
from tracer.blame.slots import Slots
from tracer.blame.storage import Storage
from tracer.blame.timeline import Timeline
from tracer.losses import OF_OPERATIONS
from tracer.model import Event, HostCapture, Operation, ProcessKey, Transfer

# What the kernel logs when nfsd is started, see nfs4_state_start_net().
_STARTS: Final = "NFSD: starting "
# What finds operations and packets of before recording, see tracer.seed.
_LOOKS: Final = frozenset({"look_back", "look_packets"})
_WRITEBACK: Final = frozenset({"WRITE", "COMMIT"})
# An RPC that ends later than this after its call was not waited for by it.
_OUTLIVES_US: Final = 1000
# Release and wake-up are two stamps.
_RELEASE_SLACK_US: Final = 1000


class Starved(NamedTuple):
    """A server's thread could have run, and had no CPU."""

    op: Operation
    span: Span

    @property
    def begin_mono_us(self) -> int:
        """Return from when on."""
        return self.span.start

    @property
    def end_mono_us(self) -> int:
        """Return until when."""
        return self.span.end


class Host:
    """A capture, and who its operations belong to."""

    def __init__(self, capture: HostCapture) -> None:
        self.capture = capture
        self.suspects = Suspects(capture)
        self.storage = Storage(capture, self.suspects)
        self.memory = Memory(capture, self.suspects)
        self.answers = Answers(capture)
        self._children: defaultdict[int, list[Operation]] = defaultdict(list)
        self._by_process: defaultdict[ProcessKey, list[Operation]] = defaultdict(list)
        self._ends: dict[ProcessKey, tuple[list[int], int]] = {}
        for op in capture.operations:
            if op.side == "client" and op.layer == "rpc":
                if op.parent_id is not None:
                    self._children[op.parent_id].append(op)
            elif op.process is not None and op.layer != "kernel":
                self._by_process[op.process].append(op)

    @cached_property
    def calls(self) -> dict[int, Operation]:
        """Return the client's VFS calls by op_id."""
        return {
            op.op_id: op
            for op in self.capture.operations
            if op.side == "client" and op.layer == "vfs"
        }

    @cached_property
    def rpcs(self) -> list[Operation]:
        """Return the client's RPCs."""
        return [op for op in self.capture.operations if op.side == "client" and op.layer == "rpc"]

    @cached_property
    def served(self) -> list[Operation]:
        """Return the RPCs served as a server."""
        return [op for op in self.capture.operations if op.side == "server" and op.layer == "rpc"]

    @cached_property
    def between(self) -> list[Operation]:
        """Return when a server's threads had no request and were not free."""
        return [op for op in self.capture.operations if op.layer == "between"]

    @cached_property
    def woken(self) -> Timeline[Operation]:
        """Return when threads were to take up a request, and when they came to it had none."""
        return Timeline(op for op in self.between if op.op == "woken")

    @cached_property
    def starved(self) -> Timeline[Starved]:
        """Return when a server's threads could have run, with an RPC or to take it up."""
        return Timeline(
            Starved(op, span)
            for op in self.served
            for span in (*taking_up(op), *spans(op))
            if span.wait.kind == "runnable"
        )

    @cached_property
    def slots(self) -> Slots:
        """Return who had the slots for RPCs of the client."""
        return Slots(self.rpcs, self.capture.answered)

    @cached_property
    def delays(self) -> Timeline[Operation]:
        """Return the times in which the kernel's own threads had no CPU to handle packets."""
        return Timeline(op for op in self.capture.operations if op.layer == "kernel")

    @cached_property
    def transfers(self) -> Timeline[Transfer]:
        """Return what processes of the client wrote and read."""
        return Timeline(self.capture.transfers)

    @cached_property
    def peers(self) -> Peers:
        """Return whom processes of the host are connected to on it."""
        return Peers(self.capture.holders)

    def is_nfsd(self, culprit: Culprit | None) -> bool:
        """Return whether a culprit is one of this server's threads."""
        process = culprit.process if culprit else None
        row = self.capture.processes.get(process) if process else None
        return row is not None and row.is_nfsd

    def children(self, call: Operation) -> Sequence[Operation]:
        """Return the RPCs submitted in a VFS call."""
        return self._children.get(call.op_id, ())

    def leftovers(self, process: ProcessKey | None) -> RpcPath:
        """Return a process's RPCs that no call of it waited for at once."""
        return self._leftovers.get(process, _NO_RPCS) if process else _NO_RPCS

    def writeback(self, mount: str | None) -> RpcPath:
        """Return a mount's writeback that no process submitted."""
        return self._writeback.get(mount, _NO_RPCS) if mount else _NO_RPCS

    def server_address(self, call: Operation) -> str | None:
        """Return the address of the server that a VFS call goes to, None if not certain.

        Of RPCs from before recording the mount is not known. But all that were under
        way have been found: if they have one server, the call can have no other. NFSv3 asks
        daemons of its own host, too, as it locks a file.
        """
        if call.peer is not None:
            return call.peer
        peers = self._peers.get(call.mount) or set().union(*self._peers.values())
        if len(peers) > 1:
            peers = {peer for peer in peers if not is_loopback(peer)}
        return next(iter(peers)) if len(peers) == 1 else None

    def operation_at(
        self, process: ProcessKey, time: int, other_than: Operation
    ) -> Operation | None:
        """Return the one operation in which a process was at a time, None if several or none."""
        found: Operation | None = None
        for op in self._overlapping(process, time):
            if op is other_than:
                continue
            if found is not None:
                return None
            found = op
        return found

    @cached_property
    def recorded(self) -> tuple[float, float]:
        """Return the monotonic times between which this host was recorded."""
        start, end = map(self.capture.mono_us, (self.capture.start, self.capture.end))
        if start is not None and end is not None:
            return start, end
        ops = self.capture.operations
        if not ops:
            return 0, 0
        return min(op.begin_mono_us for op in ops), max(op.end_mono_us for op in ops)

    @cached_property
    def nfsd_starts_us(self) -> tuple[float, ...]:
        """Return the monotonic times at which nfsd was started while this host was recorded."""
        starts = (self.capture.mono_us(one.ts) for one in self.capture.events if _is_start(one))
        return tuple(start for start in starts if start is not None)

    @cached_property
    def lost_part(self) -> float:
        """Return how many operations were lost at most, as a part of the RPCs that it served.

        If any was, one that is not there proves nothing by itself.
        """
        lost = sum(self.capture.losses.get(reason, 0) for reason in OF_OPERATIONS)
        return lost / max(1, self.capture.rpcs_ended("server"))

    @property
    def shows_all_in_flight(self) -> bool:
        """Return whether what a host had in hand when recording began is among its operations."""
        return not any(one.probe in _LOOKS and not one.attached for one in self.capture.probes)

    @cached_property
    def _leftovers(self) -> dict[ProcessKey | None, RpcPath]:
        return _paths(
            (rpc.process, rpc) for rpc in self.rpcs if rpc.process and self._outlives(rpc)
        )

    @cached_property
    def _writeback(self) -> dict[str | None, RpcPath]:
        return _paths(
            (rpc.mount, rpc) for rpc in self.rpcs if rpc.process is None and rpc.op in _WRITEBACK
        )

    @cached_property
    def _peers(self) -> dict[str | None, set[str]]:
        peers: defaultdict[str | None, set[str]] = defaultdict(set)
        for rpc in self.rpcs:
            if rpc.peer is not None:
                peers[rpc.mount].add(rpc.peer)
        return dict(peers)

    def _outlives(self, rpc: Operation) -> bool:
        parent = self.calls.get(rpc.parent_id) if rpc.parent_id is not None else None
        return parent is None or rpc.end_mono_us > parent.end_mono_us + _OUTLIVES_US

    def _overlapping(self, process: ProcessKey, time: int) -> Iterator[Operation]:
        """Yield the process's operations under way at a time."""
        ops = self._by_process.get(process)
        if not ops:
            return
        if process not in self._ends:
            ops.sort(key=served_from)
            self._ends[process] = ([served_from(op) for op in ops], max(map(wall_us, ops)))
        starts, longest = self._ends[process]
        lower = bisect_left(starts, time - longest - _RELEASE_SLACK_US)
        for op in ops[lower : bisect_right(starts, time)]:
            if op.end_mono_us + _RELEASE_SLACK_US >= time:
                yield op


def nfsd_restarted(capture: HostCapture) -> bool:
    """Return whether a server's threads were stopped or started while it was recorded."""
    return any(event.name == "nfsd" or _is_start(event) for event in capture.events)


def _is_start(event: Event) -> bool:
    return event.kind == "kmsg" and _STARTS in (event.text or "")


_NO_RPCS: Final = RpcPath(())

_K = TypeVar("_K")


def _paths(keyed: Iterable[tuple[_K, Operation]]) -> dict[_K, RpcPath]:
    groups: defaultdict[_K, list[Operation]] = defaultdict(list)
    for key, rpc in keyed:
        groups[key].append(rpc)
    return {key: RpcPath(rpcs) for key, rpcs in groups.items()}
