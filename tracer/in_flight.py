"""What has not ended yet, read from the maps as it stands."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping
from typing import Any, Final

from tracer import calls, deferred
from tracer.deferred import Deferred
from tracer.kernel import awaited, bpf, fanotify
from tracer.kernel.awaited import Awaited, Process
from tracer.kernel.memory import KernelMemory
from tracer.nfs_status import EJUKEBOX, NFS4ERR_DELAY, NFS4ERR_GRACE
from tracer.record_offsets import S32, U32, U64, At
from tracer.records import (
    ASKED,
    BETWEEN_REQUESTS,
    NAME_PART_LEN,
    NAME_PARTS,
    NO_STACK,
    OP_AWAITS,
    OP_BEGIN_UNKNOWN,
    OP_IN_FLIGHT,
    OP_KERNEL,
    RPC_ENDED,
    WAIT_BLOCKED,
    WAIT_HELD,
    HeldRec,
    OpRec,
    ProcId,
    RpcRec,
)
from tracer.thread_table import ThreadTable

# What has to be found in the kernel's symbols.
SYMBOLS: Final = (*awaited.SYMBOLS, *deferred.SYMBOLS)
_MOST_AWAITED: Final = 1024
_IDLE_RPC_NS: Final = 60_000_000_000
_COME_LATER: Final = frozenset({-EJUKEBOX, -NFS4ERR_DELAY, -NFS4ERR_GRACE})


class InFlight:
    """The operations, packets and RPCs of one recording that are under way."""

    def __init__(
        self,
        maps: Mapping[str, int],
        memory: KernelMemory,
        sleepers: int,
        threshold_ns: int,
        symbols: Mapping[str, int],
    ) -> None:
        """``symbols``: the addresses of SYMBOLS."""
        self._maps = maps
        self._memory = memory
        self._sleepers = sleepers
        self._threshold_ns = threshold_ns
        self._threads = ThreadTable(maps)
        self._rpcs = (
            bpf.BatchReader(maps["rpcs"], 8, ctypes.sizeof(RpcRec)) if "rpcs" in maps else None
        )
        self._held = bpf.BatchReader(maps["held"], 8, ctypes.sizeof(HeldRec))
        self._deferred = Deferred(maps, memory, symbols) if "deferred" in maps else None
        self._awaited = Awaited(memory, symbols)
        self._awaited_by: dict[tuple[int, int], Process | None] = {}  # thread, since when
        self._groups: set[int] = set()  # whose holders are known, or were looked for
        # How many calls that began before recording had not ended at the last look.
        self.stuck_before = 0
        # The holders of fanotify groups that operations hang at, since these were taken.
        self.listeners: list[list[dict[str, Any]]] = []

    def know(self, group: int) -> None:
        """Take note that the holders of a fanotify group are known."""
        self._groups.add(group)

    def operations(self, now_ns: int) -> Iterator[bytes]:
        """Yield the operations over the threshold, each as it stands."""
        records = self._old_ops(now_ns)
        if any(_to_be_looked_at(record) for record in records):
            bpf.run_iterator(self._sleepers)
            records = self._old_ops(now_ns)
        for record in records:
            self._see_group(record)
            named = self._with_awaited(self._with_name(record))
            yield _flagged(named, At.op_flags, OP_IN_FLIGHT)
        yield from self._put_off(now_ns)

    def _put_off(self, now_ns: int) -> Iterator[bytes]:
        """Yield the requests that are put off until an upcall is answered, each as it stands."""
        for op in self._deferred.operations(now_ns) if self._deferred else ():
            if self._is_old(op.flags, op.arrival_ns, now_ns):
                yield bytes(op)

    def _is_old(self, flags: int, since_ns: int, now_ns: int) -> bool:
        """Return whether it is over the threshold; of before recording nobody knows by how much."""
        return bool(flags & OP_BEGIN_UNKNOWN) or now_ns - since_ns >= self._threshold_ns

    def packets(self, now_ns: int) -> Iterator[bytes]:
        """Yield packets that a process has to decide on, as waits of no thread."""
        for _, value in self._held.read():
            held = HeldRec.from_buffer_copy(value)
            if self._is_old(held.flags, held.since_ns, now_ns):
                yield bytes(
                    OpRec(
                        op_id=held.op_id,
                        op=calls.vfs_number("packet"),
                        side=held.side,
                        peer=held.peer,
                        flags=OP_KERNEL | OP_IN_FLIGHT | held.flags,
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
        for record in self._threads.read():
            waits = record[At.op_watched] & ASKED or record[At.op_taken] == BETWEEN_REQUESTS
            if not record[At.op_active] and not waits:
                continue
            flags = U32.unpack_from(record, At.op_flags)[0]
            self.stuck_before += bool(flags & OP_BEGIN_UNKNOWN)
            arrival, begin = (
                U64.unpack_from(record, At.op_arrival)[0],
                U64.unpack_from(record, At.op_begin)[0],
            )
            if now_ns - (arrival or begin) >= self._threshold_ns:
                found.append(record)
        return found

    def _with_name(self, record: bytes) -> bytes:
        """Return a server's operation with its file's name, read while it holds the file."""
        dentry = U64.unpack_from(record, At.op_dentry)[0]
        if not dentry or record[At.op_name_parts]:
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
        now = self._threads.again(record)
        if now is None or any(now[at] != record[at] for at in At.op_identity):
            return record
        at = At.op_name_parts
        names = b"".join(parts).ljust(NAME_PARTS * NAME_PART_LEN, b"\0")
        return record[:at] + names + record[at + len(names) :]

    def _with_awaited(self, record: bytes) -> bytes:
        """Return the record of who has an event to answer with whose message it waits for."""
        if not record[At.op_watched] & ASKED or record[At.op_active] or not _sleeps(record):
            return record
        if U64.unpack_from(record, At.op_waking)[0]:
            return record  # it has come
        tid = U32.unpack_from(record, At.op_tid)[0]
        wait = (tid, U64.unpack_from(record, At.op_off)[0])
        if wait not in self._awaited_by:
            if len(self._awaited_by) >= _MOST_AWAITED:
                self._awaited_by.clear()
            pid = ProcId.from_buffer_copy(record, At.op_proc).tgid
            self._awaited_by[wait] = self._awaited.by(pid, tid)
        process = self._awaited_by[wait]
        if process is None:
            return record
        waker = bytes(ProcId(process.start_ns, process.pid))
        at = At.op_waker
        return _flagged(record[:at] + waker + record[at + len(waker) :], At.op_flags, OP_AWAITS)

    def _see_group(self, record: bytes) -> None:
        """Find who holds the fanotify group an operation hangs at, once for each group.

        One that has neither read nor answered since we came is in no map. A thread's
        group may be of inotify too: only a task in the group's own queue is proof.
        """
        group = U64.unpack_from(record, At.op_group)[0]
        if not group or group in self._groups or not U64.unpack_from(record, At.op_off)[0]:
            return
        tid = U32.unpack_from(record, At.op_tid)[0]
        waiting = [
            self._memory.u32(task, "task_struct.pid")
            for task in fanotify.waiting_for(self._memory, group)
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
            for pid, start_ns in fanotify.holders_of(self._memory, group)
        ]
        if marks:
            self.listeners.append(marks)

    def rpcs(self, now_ns: int) -> Iterator[bytes]:
        """Yield the client's RPCs over the threshold."""
        if self._rpcs is None:
            return
        for task, record in self._rpcs.read():
            begin_ns = U64.unpack_from(record, At.rpc_begin)[0]
            if now_ns - begin_ns < self._threshold_ns:
                continue
            if U32.unpack_from(record, At.rpc_flags)[0] & RPC_ENDED:
                # Of the few at whose address no task has begun since, for room.
                if now_ns - begin_ns > _IDLE_RPC_NS:
                    self._forget_rpc(task, record)
                elif again := self._to_be_sent_again(task, record):
                    yield again
                continue
            if not self._is_task_of(U64.unpack(task)[0], record):
                self._forget_rpc(task, record)
                continue
            yield _flagged(record, At.rpc_flags, OP_IN_FLIGHT)

    def _to_be_sent_again(self, key: bytes, record: bytes) -> bytes | None:
        """Return what has ended as the RPC that its task is going to send, None if it is not.

        One that the server told to come later. Nothing but the task tells that it goes on: it
        lives, and its times have begun anew.
        """
        ended = RpcRec.from_buffer_copy(record)
        if ended.status not in _COME_LATER:
            return None
        (task,) = U64.unpack(key)
        client = self._memory.u64(task, "rpc_task.tk_client")
        start_ns = self._memory.u64(task, "rpc_task.tk_start") or 0
        if not client or start_ns < ended.begin_ns:
            return None
        ended.begin_ns, ended.flags = start_ns, OP_IN_FLIGHT
        ended.before, ended.status, ended.xid = ended.status, 0, 0
        return bytes(ended)

    def _forget_rpc(self, task: bytes, record: bytes) -> None:
        """Remove an RPC, unless another has begun at its address since it was read."""
        now = bpf.lookup(self._maps["rpcs"], task, len(record))
        if now is not None and now[At.rpc_identity] == record[At.rpc_identity]:
            bpf.delete(self._maps["rpcs"], task)

    def _is_task_of(self, task: int, record: bytes) -> bool:
        """Return whether an rpc_task is still the one that is recorded.

        A task that finds it has nothing to send (an open under a delegation) ends
        without any trace event. A released task has no client, a new one at the same
        address another start.
        """
        client = self._memory.u64(task, "rpc_task.tk_client")
        start_ns = self._memory.u64(task, "rpc_task.tk_start")
        return bool(client) and start_ns == U64.unpack_from(record, At.rpc_begin)[0]


def _to_be_looked_at(record: bytes) -> bool:
    """Return whether nobody has read the stack of an operation that sleeps, or it may be over.

    Only a call of a client may: it is bounded by the ends of functions.
    """
    if U64.unpack_from(record, At.op_mark)[0]:
        return True
    return _sleeps(record) and S32.unpack_from(record, At.op_off_stack)[0] == NO_STACK


def _sleeps(record: bytes) -> bool:
    """Return whether a thread waits for something, and not for a CPU."""
    off_ns = U64.unpack_from(record, At.op_off)[0]
    return bool(off_ns) and U32.unpack_from(record, At.op_off_kind)[0] == WAIT_BLOCKED


def _flagged(record: bytes, at: int, flag: int) -> bytes:
    """Return the record with a flag set in its flags."""
    flags = U32.unpack_from(record, at)[0] | flag
    return record[:at] + U32.pack(flags) + record[at + 4 :]
