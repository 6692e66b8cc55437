"""Turns what lies in the maps into intervals. Opens no file once it runs.

Every descriptor is made before the first drain: the host's filesystems may all
hang behind the agent under observation, and the collector must go on.
"""

from __future__ import annotations

import ctypes
import json
import struct
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final, NamedTuple

from tracer import calls, wire
from tracer.clocks import ClockWatch
from tracer.foreign import ForeignCode
from tracer.host import possible_processors
from tracer.kernel import bpf, tasks
from tracer.kernel.memory import KernelMemory
from tracer.losses import IN_KERNEL
from tracer.outbox import Interval
from tracer.procfs.held_open import Exported, KernelLog, Samples
from tracer.records import (
    ASKED,
    FIRST_SLEEPER,
    NAME_PART_LEN,
    NAME_PARTS,
    NO_STACK,
    OP_BEGIN_UNKNOWN,
    OP_IN_FLIGHT,
    OP_KERNEL,
    RPC_ENDED,
    WAIT_BLOCKED,
    WAIT_HELD,
    CountKey,
    HeldRec,
    HolderRec,
    LatencyKey,
    LatencyVal,
    ListenerRec,
    OpRec,
    ProcId,
    ProcRec,
    RpcRec,
    UseKey,
    WaitKey,
    WaitRec,
    WaitVal,
)

_STACK_DEPTH: Final = 127
_IDLE_RPC_NS: Final = 60_000_000_000
_U64: Final = struct.Struct("<Q")
_U32: Final = struct.Struct("<I")


class _At:
    """Offsets into packed records, taken from their ctypes twins."""

    op_name = OpRec.op.offset
    op_nfs = OpRec.nfs_op.offset
    op_longest = OpRec.nfs_longest.offset
    op_begin = OpRec.begin_ns.offset
    op_mark = OpRec.mark.offset
    op_arrival = OpRec.arrival_ns.offset
    op_active = OpRec.active.offset
    op_watched = OpRec.watched.offset
    op_side = OpRec.side.offset
    op_flags = OpRec.flags.offset
    op_proc = OpRec.proc.offset
    op_off = OpRec.off_ns.offset
    op_tid = OpRec.tid.offset
    op_group = OpRec.group.offset
    op_off_kind = OpRec.off_kind.offset
    op_off_stack = OpRec.off_stack.offset
    op_waker = OpRec.waker.offset
    op_waker_stack = OpRec.waker_stack.offset
    op_nwaits = OpRec.nwaits.offset
    op_waits = OpRec.waits.offset
    op_dentry = OpRec.dentry.offset
    op_name_parts = OpRec.name.offset
    op_identity = (
        slice(OpRec.op_id.offset, OpRec.op_id.offset + 8),
        slice(OpRec.dentry.offset, OpRec.dentry.offset + 8),
        slice(OpRec.active.offset, OpRec.active.offset + 1),
    )
    wait_size = ctypes.sizeof(WaitRec)
    wait_stack = WaitRec.stack.offset
    wait_waker = WaitRec.waker.offset
    wait_waker_stack = WaitRec.waker_stack.offset
    rpc_name = RpcRec.op.offset
    rpc_begin = RpcRec.begin_ns.offset
    rpc_identity = slice(RpcRec.op_id.offset, RpcRec.begin_ns.offset + 8)
    rpc_flags = RpcRec.flags.offset
    rpc_proc = RpcRec.proc.offset


class _Pair(NamedTuple):
    """Two maps of one form, of which one is written to while the other is drained."""

    kind: int
    name: str
    key: type[ctypes.Structure]
    value: type[ctypes.Structure | ctypes.c_uint64]
    of_servers: bool = False


_PAIRS: Final = (
    _Pair(wire.LATENCY, "latency", LatencyKey, LatencyVal),
    _Pair(wire.WAITS, "waits", WaitKey, WaitVal),
    _Pair(wire.COUNTS, "counts", CountKey, ctypes.c_uint64),
    _Pair(wire.USES, "uses", UseKey, LatencyVal, of_servers=True),
)


@dataclass(slots=True)
class _Seen:
    """Names, stacks and processes referred to by the records of this interval."""

    names: set[int] = field(default_factory=set)
    stacks: set[int] = field(default_factory=set)
    processes: set[bytes] = field(default_factory=set)


class Collector:
    """Drains the maps of one recording."""

    def __init__(
        self,
        maps: Mapping[str, int],
        memory: KernelMemory,
        sleepers: int,
        programs: Mapping[str, Sequence[int]],
        foreign: ForeignCode,
        threshold_ns: int,
        ring_bytes: int,
    ) -> None:
        self._maps = maps
        self._memory = memory
        self._sleepers = sleepers
        self._programs = programs
        self._foreign = foreign
        self._missed = dict.fromkeys(programs, 0)
        self._threshold_ns = threshold_ns
        self._half = 1
        self._pairs = [pair for pair in _PAIRS if pair.name in maps or not pair.of_servers]
        self._sums = {pair.kind: self._readers(pair) for pair in self._pairs}
        self._threads = bpf.BatchReader(maps["threads"], 4, ctypes.sizeof(OpRec))
        self._rpcs = (
            bpf.BatchReader(maps["rpcs"], 8, ctypes.sizeof(RpcRec)) if "rpcs" in maps else None
        )
        self._listeners = bpf.BatchReader(maps["listeners"], 8, ctypes.sizeof(ListenerRec))
        self._held = bpf.BatchReader(maps["held"], 8, ctypes.sizeof(HeldRec))
        self._frozen = bpf.BatchReader(maps["frozen"], 8, ctypes.sizeof(HolderRec))
        self._ring = bpf.RingReader(maps["ring"], ring_bytes)
        self._samples = Samples()
        self._kernel_log = KernelLog()
        self._losses = [0] * len(IN_KERNEL)
        self._known = _Seen()
        self._known_names: dict[int, str] = {}
        self._facts: list[tuple[int, bytes]] = []
        self._groups: set[int] = set()  # whose holders are known, or were looked for
        self._cpu_s = time.process_time()
        self._processors = possible_processors()
        self._exports = Exported()
        self._exported: frozenset[int] = frozenset()
        # How many calls that began before recording had not ended at the last drain.
        self.stuck_before = 0
        self._clocks = ClockWatch()

        self._follow_exports()
        self._swap()

    def _readers(self, pair: _Pair) -> tuple[bpf.BatchReader, bpf.BatchReader]:
        sizes = ctypes.sizeof(pair.key), ctypes.sizeof(pair.value)
        return (
            bpf.BatchReader(self._maps[f"{pair.name}0"], *sizes),
            bpf.BatchReader(self._maps[f"{pair.name}1"], *sizes),
        )

    def add_fact(self, kind: int, payload: Any) -> None:
        """Add a JSON frame to the next interval."""
        self._facts.append((kind, json.dumps(payload).encode()))

    def drain(self) -> Interval:
        """Return all that happened since the last drain."""
        half = self._swap()
        self._follow_exports()
        self._follow_foreign()
        seen = _Seen()
        interval = Interval(tick={}, facts=self._facts)
        self._facts = []
        for kind, pair in self._sums.items():
            interval.sums[kind] = self._drain_sums(kind, pair[half], seen)
        self._drain_ring(interval, seen)
        now_ns = time.monotonic_ns()
        stuck = chain(self._ops_in_flight(now_ns, seen), self._packets_in_flight(now_ns))
        interval.in_flight[wire.OPS] = b"".join(stuck)
        interval.in_flight[wire.RPCS] = b"".join(self._rpcs_in_flight(now_ns, seen))
        listeners = b"".join(self._drain_listeners(seen))
        if listeners:
            interval.facts.append((wire.LISTENERS, listeners))
        interval.facts += self._new_facts(seen)
        interval.facts += self._messages()
        for text in self._clocks.changes():
            note = {"mono_ns": now_ns, "name": "clock", "text": text}
            interval.facts.append((wire.NOTE, json.dumps(note).encode()))
        sample = {"mono_ns": now_ns, "files": self._samples.read()}
        interval.facts.append((wire.SAMPLE, json.dumps(sample).encode()))
        interval.tick = {
            "mono_ns": now_ns,
            "intervals": 1,
            "losses": self._new_losses(),
            "overhead": self._overhead(),
        }
        return interval

    def stop(self) -> None:
        """Detach what was attached on demand; nothing more is drained."""
        self._foreign.close()

    def _swap(self) -> int:
        """Let the programs write to the other half of each pair; return the one to drain."""
        half = self._half
        self._half ^= 1
        for pair in self._pairs:
            fd = self._maps[f"{pair.name}{self._half}"]
            bpf.update(self._maps[pair.name], _U32.pack(0), _U32.pack(fd))
        return half

    def _follow_exports(self) -> None:
        """Tell the programs which filesystems are exported now."""
        devices = self._exports.devices()
        if devices is None:
            return
        for dev in devices - self._exported:
            bpf.update(self._maps["exported"], _U32.pack(dev), b"\1")
        for dev in self._exported - devices:
            bpf.delete(self._maps["exported"], _U32.pack(dev))
        self._exported = devices

    def _follow_foreign(self) -> None:
        """Tell the programs where code lies that is not the kernel's, and the writer whose."""
        owners = self._foreign.follow()
        if owners:
            self.add_fact(
                wire.OWNERS, {str(begin): owner.text() for begin, owner in owners.items()}
            )
        for text in self._foreign.notes:
            note = {"mono_ns": time.monotonic_ns(), "name": "foreign", "text": text}
            self.add_fact(wire.NOTE, note)
        self._foreign.notes.clear()

    # What the maps hold

    def _drain_sums(self, kind: int, reader: bpf.BatchReader, seen: _Seen) -> bytes:
        parts: list[bytes] = []
        for key, value in reader.read(delete=True):
            parts += (key, value)
            if kind != wire.USES:
                seen.names.add(_U64.unpack_from(key)[0])
            if kind == wire.COUNTS:
                continue
            seen.processes.add(key[8:24])
            if kind == wire.WAITS:
                seen.stacks.update(struct.unpack_from("<ii", key, WaitKey.stack.offset))
        return b"".join(parts)

    def _drain_ring(self, interval: Interval, seen: _Seen) -> None:
        ops: list[bytes] = []
        rpcs: list[bytes] = []
        holders: list[bytes] = []
        for record in self._ring.read():
            if len(record) == ctypes.sizeof(HolderRec):
                holders.append(record)
            elif len(record) == ctypes.sizeof(OpRec):
                self._see_op(record, seen)
                ops.append(record)
            else:
                self._see_rpc(record, seen)
                rpcs.append(record)
        holders += (record for _, record in self._frozen.read())
        for record in holders:
            seen.processes.add(record[: ctypes.sizeof(ProcId)])
        if holders:
            interval.facts.append((wire.HOLDERS, b"".join(holders)))
        if ops:
            interval.finished.append((wire.OPS, b"".join(ops)))
        if rpcs:
            interval.finished.append((wire.RPCS, b"".join(rpcs)))

    def _ops_in_flight(self, now_ns: int, seen: _Seen) -> Iterable[bytes]:
        records = self._old_ops(now_ns)
        if any(_to_be_looked_at(record) for record in records):
            bpf.run_iterator(self._sleepers)
            records = self._old_ops(now_ns)
        for record in records:
            self._see_op(record, seen)
            self._see_group(record)
            yield _flagged(self._with_name(record), _At.op_flags)

    def _packets_in_flight(self, now_ns: int) -> Iterable[bytes]:
        """Yield packets that a process has to decide on, as waits of no thread."""
        for _, value in self._held.read():
            held = HeldRec.from_buffer_copy(value)
            if now_ns - held.since_ns >= self._threshold_ns:
                yield bytes(
                    OpRec(
                        op_id=held.op_id,
                        op=calls.vfs_number("packet"),
                        side=held.side,
                        peer=held.peer,
                        flags=OP_KERNEL | OP_IN_FLIGHT,
                        begin_ns=held.since_ns,
                        off_ns=held.since_ns,
                        off_kind=WAIT_HELD,
                        off_stack=NO_STACK,
                        waker_stack=NO_STACK,
                    )
                )

    def _old_ops(self, now_ns: int) -> list[bytes]:
        """Return the operations in flight that are over the threshold."""
        found: list[bytes] = []
        self.stuck_before = 0
        for _, record in self._threads.read():
            if not record[_At.op_active] and not record[_At.op_watched] & ASKED:
                continue
            flags = _U32.unpack_from(record, _At.op_flags)[0]
            self.stuck_before += bool(flags & OP_BEGIN_UNKNOWN)
            arrival, begin = (
                _U64.unpack_from(record, _At.op_arrival)[0],
                _U64.unpack_from(record, _At.op_begin)[0],
            )
            if now_ns - (arrival or begin) >= self._threshold_ns:
                found.append(record)
        return found

    def _with_name(self, record: bytes) -> bytes:
        """Return a server's operation with its file's name, read while it holds the file."""
        dentry = _U64.unpack_from(record, _At.op_dentry)[0]
        if not dentry or record[_At.op_name_parts]:
            return record
        parts: list[bytes] = []
        while dentry and len(parts) < NAME_PARTS:
            name = self._memory.u64(dentry + self._memory.offset("dentry.d_name"), "qstr.name")
            raw = self._memory.read(name, NAME_PART_LEN - 1) if name else None
            parent = self._memory.u64(dentry, "dentry.d_parent")
            if raw is None:
                return record
            parts.append(raw.partition(b"\0")[0].ljust(NAME_PART_LEN, b"\0"))
            dentry = parent if parent != dentry else 0
        # The thread may have gone on meanwhile: then the dentry was another's.
        key = _U32.pack(_U32.unpack_from(record, _At.op_tid)[0])
        now = bpf.lookup(self._maps["threads"], key, ctypes.sizeof(OpRec))
        if now is None or any(now[at] != record[at] for at in _At.op_identity):
            return record
        at = _At.op_name_parts
        names = b"".join(parts).ljust(NAME_PARTS * NAME_PART_LEN, b"\0")
        return record[:at] + names + record[at + len(names) :]

    def _see_group(self, record: bytes) -> None:
        """Find who holds the fanotify group an operation hangs at, once for each group.

        One that has neither read nor answered since we came is in no map. A thread's
        group may be of inotify too: only a task in the group's own queue is proof.
        """
        group = _U64.unpack_from(record, _At.op_group)[0]
        if not group or group in self._groups or not _U64.unpack_from(record, _At.op_off)[0]:
            return
        tid = _U32.unpack_from(record, _At.op_tid)[0]
        waiting = [
            self._memory.u32(task, "task_struct.pid")
            for task in tasks.waiting_for(self._memory, group)
        ]
        if tid not in waiting:
            return
        self._groups.add(group)
        marks = [
            {
                "pid": pid,
                "start_ns": start_ns,
                "group": group,
                "marks": "",
                "blocked": len(waiting),
            }
            for pid, start_ns in tasks.holders_of(self._memory, group)
        ]
        if marks:
            self.add_fact(wire.MARKS, marks)

    def _rpcs_in_flight(self, now_ns: int, seen: _Seen) -> Iterable[bytes]:
        if self._rpcs is None:
            return
        for task, record in self._rpcs.read():
            begin_ns = _U64.unpack_from(record, _At.rpc_begin)[0]
            if now_ns - begin_ns < self._threshold_ns:
                continue
            if _U32.unpack_from(record, _At.rpc_flags)[0] & RPC_ENDED:
                # Of the few at whose address no task has begun since, for room.
                if now_ns - begin_ns > _IDLE_RPC_NS:
                    self._forget_rpc(task, record)
                continue
            if not self._is_task_of(_U64.unpack(task)[0], record):
                self._forget_rpc(task, record)
                continue
            self._see_rpc(record, seen)
            yield _flagged(record, _At.rpc_flags)

    def _forget_rpc(self, task: bytes, record: bytes) -> None:
        """Remove an RPC, unless another has begun at its address since it was read."""
        now = bpf.lookup(self._maps["rpcs"], task, len(record))
        if now is not None and now[_At.rpc_identity] == record[_At.rpc_identity]:
            bpf.delete(self._maps["rpcs"], task)

    def _is_task_of(self, task: int, record: bytes) -> bool:
        """Return whether an rpc_task is still the one that is recorded.

        A task that finds it has nothing to send (an open under a delegation) ends
        without any trace event. A released task has no client, a new one at the same
        address another start.
        """
        client = self._memory.u64(task, "rpc_task.tk_client")
        start_ns = self._memory.u64(task, "rpc_task.tk_start")
        return bool(client) and start_ns == _U64.unpack_from(record, _At.rpc_begin)[0]

    def _drain_listeners(self, seen: _Seen) -> Iterable[bytes]:
        for group, record in self._listeners.read():
            self._groups.add(_U64.unpack(group)[0])
            seen.processes.add(record[: ctypes.sizeof(ProcId)])
            yield group + record

    def _see_op(self, record: bytes, seen: _Seen) -> None:
        for at in (_At.op_name, _At.op_nfs, _At.op_longest):
            seen.names.add(_U64.unpack_from(record, at)[0])
        seen.processes.add(record[_At.op_proc : _At.op_proc + 16])
        if _U64.unpack_from(record, _At.op_off)[0]:
            seen.stacks.add(struct.unpack_from("<i", record, _At.op_off_stack)[0])
            seen.processes.add(record[_At.op_waker : _At.op_waker + 16])
            seen.stacks.add(struct.unpack_from("<i", record, _At.op_waker_stack)[0])
        for i in range(_U32.unpack_from(record, _At.op_nwaits)[0]):
            at = _At.op_waits + i * _At.wait_size
            seen.stacks.add(struct.unpack_from("<i", record, at + _At.wait_stack)[0])
            seen.stacks.add(struct.unpack_from("<i", record, at + _At.wait_waker_stack)[0])
            waker = at + _At.wait_waker
            seen.processes.add(record[waker : waker + 16])

    def _see_rpc(self, record: bytes, seen: _Seen) -> None:
        seen.names.add(_U64.unpack_from(record, _At.rpc_name)[0])
        seen.processes.add(record[_At.rpc_proc : _At.rpc_proc + 16])

    # What the records refer to, each once

    def _new_facts(self, seen: _Seen) -> list[tuple[int, bytes]]:
        facts: list[tuple[int, bytes]] = []
        names = self._names(seen.names)
        if names:
            facts.append((wire.NAMES, json.dumps(names).encode()))
        stacks = self._stacks(seen.stacks - self._known.stacks)
        if stacks:
            facts.append((wire.STACKS, json.dumps(stacks).encode()))
        processes = self._processes(seen.processes - self._known.processes)
        if processes:
            facts.append((wire.PROCS, processes))
        return facts

    def _names(self, addresses: set[int]) -> dict[str, str]:
        names: dict[str, str] = {}
        for address in addresses:
            # Read each time: of a module that is not held another may lie there by now.
            # VFS calls have small numbers, not addresses. nfsd names its operations OP_*.
            text = self._memory.text(address) if address >= 1 << 32 else None
            if text and self._known_names.get(address) != text:
                self._known_names[address] = text
                names[str(address)] = text.removeprefix("OP_")
        return names

    def _stacks(self, identifiers: set[int]) -> dict[str, list[int]]:
        stacks: dict[str, list[int]] = {}
        for identifier in identifiers:
            self._known.stacks.add(identifier)
            if identifier < 0:
                continue
            name = "stacks" if identifier < FIRST_SLEEPER else "sleepers"
            value = bpf.lookup(self._maps[name], _U32.pack(identifier), 8 * _STACK_DEPTH)
            if value is not None:
                addresses = struct.unpack(f"<{_STACK_DEPTH}Q", value)
                stacks[str(identifier)] = [address for address in addresses if address]
        return stacks

    def _processes(self, identities: set[bytes]) -> bytes:
        parts: list[bytes] = []
        for identity in identities:
            value = bpf.lookup(self._maps["procs"], identity, ctypes.sizeof(ProcRec))
            if value is not None:
                self._known.processes.add(identity)
                parts += (identity, value)
        return b"".join(parts)

    # The host beside it, and what this costs

    def _messages(self) -> Iterable[tuple[int, bytes]]:
        for message in self._kernel_log.read():
            yield wire.KMSG, json.dumps(message._asdict()).encode()

    def _new_losses(self) -> dict[str, int]:
        losses: dict[str, int] = {}
        for reason, name in enumerate(IN_KERNEL):
            value = bpf.lookup(self._maps["lost"], _U32.pack(reason), 8 * self._processors)
            total = sum(struct.unpack(f"<{self._processors}Q", value)) if value else 0
            if total > self._losses[reason]:
                losses[name] = total - self._losses[reason]
                self._losses[reason] = total
        for name, programs in self._programs.items():
            missed = sum(map(bpf.missed_runs, programs))
            if missed > self._missed[name]:
                losses[name] = missed - self._missed[name]
                self._missed[name] = missed
        return losses

    def _overhead(self) -> dict[str, float]:
        spent_s = time.process_time()
        used_s, self._cpu_s = spent_s - self._cpu_s, spent_s
        return {"collector_cpu_us": round(used_s * 1e6)}


def _to_be_looked_at(record: bytes) -> bool:
    """Return whether nobody has read the stack of an operation that sleeps, or it may be over.

    Only a call of a client may: it is bounded by the ends of functions.
    """
    if _U64.unpack_from(record, _At.op_mark)[0]:
        return True
    off_ns = _U64.unpack_from(record, _At.op_off)[0]
    kind = _U32.unpack_from(record, _At.op_off_kind)[0]
    stack = struct.unpack_from("<i", record, _At.op_off_stack)[0]
    return bool(off_ns and kind == WAIT_BLOCKED and stack == NO_STACK)


def _flagged(record: bytes, at: int) -> bytes:
    """Return the record marked as in flight."""
    flags = _U32.unpack_from(record, at)[0] | OP_IN_FLIGHT
    return record[:at] + _U32.pack(flags) + record[at + 4 :]
