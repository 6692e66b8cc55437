"""What was stuck before recording began.

Probes see only what happens. An operation that began earlier and hangs is found
by looking: the task list, each nfsd thread's request, fanotify groups and the
tasks in their queues, the client's RPC tasks. What is found is put into the same
maps that the programs use, so it ends, and is reported, like any other.

Everything read races with the kernel. A thread is taken only if it slept through
the whole look, by its ``se.exec_start``, which changes whenever it runs.
"""

from __future__ import annotations

import ctypes
import errno
import struct
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Final

from tracer import calls, queued_packets
from tracer.host import pack_peer
from tracer.kernel import bpf, fanotify, functions, rpc_tasks, tasks
from tracer.kernel.memory import KernelMemory
from tracer.kernel.namespaces import Namespaces
from tracer.kernel.rpc_tasks import RpcTasks
from tracer.procfs.descriptors import descriptors, fdinfo
from tracer.procfs.holders import asked
from tracer.records import (
    ASKED,
    NO_STACK,
    OP_ANSWER,
    OP_BEGIN_UNKNOWN,
    OP_KERNEL,
    SIDE_CLIENT,
    SIDE_SERVER,
    HeldRec,
    OpRec,
    RpcRec,
)
from tracer.thread_table import ThreadTable

# Ids of what is found here: above all that BPF counts (CPU << 40 | n).
FIRST_ID: Final = 1 << 62

# The look as a row of the probes of a capture, where types lack a field it needs.
LOOK: Final = {
    "program": "look_back",
    "kind": "look",
    "target": "kernel memory",
    "purpose": "what was stuck before recording began",
    "lost": "what was stuck before recording began",
    "required": False,
    "on_demand": False,
}

# The same of packets, where there are netfilter queues and no types of them.
LOOK_AT_PACKETS: Final = {
    **LOOK,
    "program": "look_packets",
    "purpose": "packets in netfilter queues when recording began",
    "lost": "packets that processes had to decide on when recording began",
}

# What has to be found in the kernel's symbols.
SYMBOLS: Final = (*rpc_tasks.SYMBOLS, queued_packets.SYMBOL)
_WAIT_BLOCKED: Final = 1
# An nfsd thread that works on a request has one of these on its stack.
_SERVING: Final = ("svc_process", "nfsd_dispatch")
# Where in a result the handle of the file stands that is being worked on. A result of NFSv3,
# whatever its procedure, begins with the status and a copy of the handle that was asked for.
_COMPOUND_HANDLE: Final = ("nfsd4_compoundres.cstate", "nfsd4_compound_state.current_fh")
_NFS3_HANDLE: Final = ("nfsd3_attrstat.fh",)
_FILE: Final = ("svc_fh.fh_dentry", "dentry.d_inode", "dentry.d_sb", "inode.i_ino")


@dataclass(frozen=True, slots=True)
class PermissionListener:
    """A descriptor of a fanotify group with permission marks, by fdinfo."""

    pid: int
    fd: int
    marks: str


@dataclass(slots=True)
class Found:
    """What the look brought, as facts for the writer and elements for the maps."""

    marks: list[dict[str, Any]]
    threads: dict[int, OpRec]
    rpcs: dict[int, RpcRec]
    packets: dict[int, HeldRec] = field(default_factory=dict)
    asked: list[dict[str, Any]] = field(default_factory=list)
    lacks_packets: bool = False


class Seeder:
    """One look at the kernel, when recording begins."""

    def __init__(
        self,
        memory: KernelMemory,
        sides: list[str],
        symbols: Mapping[str, int],
        proc: Path = Path("/proc"),
    ) -> None:
        """``symbols``: the addresses of SYMBOLS."""
        self._memory = memory
        self._sides = sides
        self._proc = proc
        self._next_id = FIRST_ID
        self._found = Found([], {}, {})
        self._symbols = symbols
        self._tasks = dict(tasks.walk(memory))
        of_all = (memory.current_task(), *self._tasks.values())
        self._namespaces = Namespaces(memory, of_all, symbols)
        # se.exec_start is of the scheduler's clock; ours ran just now.
        me = memory.current_task()
        exec_start = self._exec_start(me)
        self._clock_ns = time.monotonic_ns() - (exec_start or time.monotonic_ns())

    def look(self) -> Found:
        """Return the operations in flight and the permission listeners."""
        listeners = list(permission_listeners(self._proc))
        groups = {listener: self._group(listener) for listener in listeners}
        blocked = {
            group: set(fanotify.waiting_for(self._memory, group))
            for group in groups.values()
            if group
        }
        self._watch_softirqs()
        self._watch_asked(group for group in groups.items() if blocked.get(group[1] or 0))
        self._look_at_packets()
        if "server" in self._sides:
            self._look_at_server(blocked)
        if "client" in self._sides:
            self._look_at_client(blocked)
        self._found.marks = [
            {
                "pid": listener.pid,
                "start_ns": tasks.start_ns(self._memory, self._tasks[listener.pid]),
                "group": group,
                "marks": listener.marks,
                "blocked": len(blocked[group]) if group in blocked else None,
            }
            for listener, group in groups.items()
            if listener.pid in self._tasks
        ]
        self._found.asked = [
            {**one._asdict(), "start_ns": tasks.start_ns(self._memory, self._tasks[one.pid])}
            for one in sorted(set(asked(self._proc)))
            if one.pid in self._tasks
        ]
        return self._found

    # Tasks

    def _thread(self, process: int, tid: int) -> int | None:
        """Return the task_struct of a thread of a process."""
        leader = self._tasks.get(process)
        return tasks.thread(self._memory, leader, tid) if leader else None

    def _exec_start(self, task: int) -> int | None:
        at = self._memory.offset("task_struct.se") + self._memory.offset("sched_entity.exec_start")
        return self._memory.u64(task + at)

    def _stack(self, tid: int) -> list[str]:
        """Return a thread's kernel stack, innermost first; empty if it may not be read."""
        try:
            lines = (self._proc / str(tid) / "stack").read_text().splitlines()
        except OSError:
            return []
        # "[<0>] function+0x1/0x2 [module]"
        return [line.split("] ", 1)[-1].split("+")[0].split(".")[0] for line in lines]

    def _sleeping_op(self, task: int, tid: int, side: int) -> OpRec:
        """Return the record of a thread that sleeps."""
        memory = self._memory
        op = OpRec(op_id=self._new_id(), side=side, active=1, tid=tid, waker_stack=-1)
        leader = memory.u64(task, "task_struct.group_leader") or task
        op.proc.tgid = memory.u32(task, "task_struct.tgid") or 0
        op.proc.start_ns = tasks.start_ns(self._memory, leader)
        op.comm = (memory.text(leader, "task_struct.comm", 16) or "").encode()
        op.off_ns = (self._exec_start(task) or 0) + self._clock_ns
        op.off_kind = _WAIT_BLOCKED
        op.off_stack = NO_STACK  # BPF reads it, with what /proc leaves out
        return op

    def _new_id(self) -> int:
        self._next_id += 1
        return self._next_id

    # fanotify

    def _group(self, listener: PermissionListener) -> int | None:
        """Return the struct fsnotify_group * behind a descriptor of a process."""
        task = self._tasks.get(listener.pid)
        file = tasks.file(self._memory, task, listener.fd) if task else None
        return self._memory.u64(file, "file.private_data") if file else None

    def _watch_asked(self, hanging: Iterable[tuple[PermissionListener, int | None]]) -> None:
        """Have the listeners watched that have an event in hand, as far as it is sure which thread.

        ``hanging``: those whose answer a task waits for, with their groups.
        """
        for listener, group in hanging:
            task = self._tasks.get(listener.pid)
            if not task or not group or not self._has_one_thread(task):
                continue
            sleeps = self._memory.u32(task, "task_struct.state")
            if not sleeps or not any(fanotify.unanswered(self._memory, group)):
                continue
            op = self._sleeping_op(task, listener.pid, self._host_side)
            op.op, op.active, op.watched = calls.vfs_number("answer"), 0, ASKED | 1
            op.flags = OP_ANSWER | OP_BEGIN_UNKNOWN
            op.begin_ns = op.off_ns
            self._found.threads[listener.pid] = op

    def _has_one_thread(self, leader: int) -> bool:
        return len(list(islice(tasks.threads(self._memory, leader), 2))) == 1

    @property
    def _host_side(self) -> int:
        """Return the side of what belongs to neither."""
        return SIDE_SERVER if "server" in self._sides else SIDE_CLIENT

    def _watch_softirqs(self) -> None:
        """Have the threads watched that handle packets when interrupts leave them to others."""
        for pid, task in self._tasks.items():
            comm = self._memory.text(task, "task_struct.comm", 16) or ""
            if not comm.startswith("ksoftirqd/"):
                continue
            op = OpRec(tid=pid, flags=OP_KERNEL, waker_stack=-1, comm=comm.encode())
            op.side = self._host_side
            op.op = calls.vfs_number("softirq")
            op.proc.tgid = pid
            op.proc.start_ns = tasks.start_ns(self._memory, task)
            self._found.threads[pid] = op

    # Packets

    def _look_at_packets(self) -> None:
        """Find the packets of NFS that processes have to decide on."""
        found = list(self._namespaces.of_module(queued_packets.SYMBOL))
        self._found.lacks_packets = bool(found) and not queued_packets.can_look(self._memory)
        for own in () if self._found.lacks_packets else found:
            for entry, held in queued_packets.queued_packets(
                self._memory, own, time.monotonic_ns()
            ):
                held.op_id = self._new_id()
                self._found.packets[entry] = held

    # The server

    def _look_at_server(self, blocked: Mapping[int, set[int]]) -> None:
        for pid, task in self._tasks.items():
            if self._memory.text(task, "task_struct.comm", 16) != "nfsd":
                continue
            before = self._exec_start(task)
            stack = self._stack(pid)
            if not any(frame in _SERVING for frame in stack):
                continue
            op = self._sleeping_op(task, pid, SIDE_SERVER)
            op.at_work = 1
            op.group = next((g for g, tasks in blocked.items() if task in tasks), 0)
            if self._read_request(task, op) and self._exec_start(task) == before:
                self._found.threads[pid] = op

    def _read_request(self, task: int, op: OpRec) -> bool:
        """Fill in what the thread's svc_rqst says; False if it says nothing sensible."""
        memory = self._memory
        kthread = memory.u64(task, "task_struct.worker_private")
        rqst = memory.u64(kthread, "kthread.data") if kthread else None
        if not rqst:
            return False
        op.begin_ns = memory.u64(rqst, "svc_rqst.rq_stime") or 0
        if not 0 < op.begin_ns <= time.monotonic_ns():
            return False
        op.off_ns = max(op.off_ns, op.begin_ns)
        xid = memory.u32(rqst, "svc_rqst.rq_xid") or 0
        op.xid = struct.unpack(">I", struct.pack("<I", xid))[0]
        address = memory.read(rqst + memory.offset("svc_rqst.rq_addr"), 28)
        if address:
            op.peer = (ctypes.c_uint8 * 16)(*pack_peer(address))
        procedure = memory.u64(rqst, "svc_rqst.rq_procinfo")
        op.op = (memory.u64(procedure, "svc_procedure.pc_name") or 0) if procedure else 0
        is_compound = procedure and memory.text(op.op) == "COMPOUND"
        if is_compound:
            self._read_compound(rqst, op)
        result = memory.u64(rqst, "svc_rqst.rq_resp")
        handle = _COMPOUND_HANDLE if is_compound else _NFS3_HANDLE
        if result and memory.knows(*handle, *_FILE):
            self._read_file(result + sum(memory.offset(field) for field in handle), op)
        return True

    def _read_file(self, handle: int, op: OpRec) -> None:
        """Fill in the file of a struct svc_fh, if it has been looked up."""
        memory = self._memory
        dentry = memory.u64(handle, "svc_fh.fh_dentry")
        inode = memory.u64(dentry, "dentry.d_inode") if dentry else None
        filesystem = memory.u64(dentry, "dentry.d_sb") if dentry else None
        device = memory.u32(filesystem, "super_block.s_dev") if filesystem else None
        if dentry and device:
            op.dentry, op.dev = dentry, device
            op.ino = (memory.u64(inode, "inode.i_ino") or 0) if inode else 0

    def _read_compound(self, rqst: int, op: OpRec) -> None:
        """Fill in which operation of the COMPOUND is running."""
        memory = self._memory
        if not memory.knows("nfsd4_op.opdesc"):
            return
        arguments = memory.u64(rqst, "svc_rqst.rq_argp")
        result = memory.u64(rqst, "svc_rqst.rq_resp")
        ops = memory.u64(arguments, "nfsd4_compoundargs.ops") if arguments else None
        if not arguments or not result or not ops:
            return
        # nfsd4_proc_compound counts an operation before it runs it.
        running = memory.u32(result, "nfsd4_compoundres.opcnt") or 0
        count = memory.u32(arguments, "nfsd4_compoundargs.opcnt") or 0
        if not 0 < running <= count:
            return
        entry = ops + (running - 1) * memory.size("nfsd4_op")
        description = memory.u64(entry, "nfsd4_op.opdesc")
        if description:
            op.ops = ops
            op.nfs_op = memory.u64(description, "nfsd4_operation.op_name") or 0
            op.nfs_begin_ns = op.begin_ns

    # The client

    def _look_at_client(self, blocked: Mapping[int, set[int]]) -> None:
        self._read_rpcs()
        first_rpc = {
            rpc.proc.tgid: rpc.begin_ns
            for rpc in sorted(self._found.rpcs.values(), key=lambda rpc: -rpc.begin_ns)
        }
        for pid, tid in sleeping_threads(self._proc):
            task = self._thread(pid, tid)
            if task is None:
                continue
            before = self._exec_start(task)
            stack = self._stack(tid)
            frames = functions.CLIENT_FRAMES
            call = next((frames[f] for f in reversed(stack) if f in frames), None)
            if call is None:
                continue
            op = self._sleeping_op(task, tid, SIDE_CLIENT)
            op.op = calls.vfs_number(call)
            op.group = next((g for g, tasks in blocked.items() if task in tasks), 0)
            # It began no later than it fell asleep; its RPC may have begun before that.
            op.begin_ns = min(op.off_ns, first_rpc.get(pid, op.off_ns))
            op.flags = OP_BEGIN_UNKNOWN
            if self._exec_start(task) == before:
                self._found.threads[tid] = op
                self._adopt(op)

        for group, waiting in blocked.items():
            self._look_at_permissions(group, waiting)

    def _look_at_permissions(self, group: int, waiting: set[int]) -> None:
        """Find what waits for a listener's permission to use a file of a mount.

        nfs.ko has not seen it yet, so nothing of it is in a stack.
        """
        memory = self._memory
        devices: defaultdict[int, set[int | None]] = defaultdict(set)
        for event in fanotify.permission_events(memory, group):
            devices[event.pid].add(event.device)
        for task in waiting:
            before = self._exec_start(task)
            tid, pid = (memory.u32(task, f"task_struct.{field}") or 0 for field in ("pid", "tgid"))
            # Of threads of one process that ask about several filesystems, nobody knows which.
            (device, *others) = devices[tid] | devices[pid] or {None}
            if device is None or others or tid in self._found.threads:
                continue
            op = self._sleeping_op(task, tid, SIDE_CLIENT)
            op.op, op.dev, op.group = calls.vfs_number("permission"), device, group
            op.begin_ns, op.flags = op.off_ns, OP_BEGIN_UNKNOWN
            if self._exec_start(task) == before:
                self._found.threads[tid] = op

    def _adopt(self, op: OpRec) -> None:
        """Make the process's RPCs that began during the call its children."""
        for rpc in self._found.rpcs.values():
            if rpc.proc.tgid == op.proc.tgid and rpc.begin_ns >= op.begin_ns:
                rpc.parent_id = op.op_id

    def _read_rpcs(self) -> None:
        for task in RpcTasks(self._memory, self._namespaces, self._symbols).find():
            rpc = self._rpc(task)
            if rpc is not None:
                self._found.rpcs[task] = rpc

    def _rpc(self, task: int) -> RpcRec | None:
        """Return the record of an rpc_task, None if it makes no sense."""
        memory = self._memory
        begin_ns = memory.u64(task, "rpc_task.tk_start") or 0
        if not 0 < begin_ns <= time.monotonic_ns():
            return None
        rpc = RpcRec(op_id=self._new_id(), begin_ns=begin_ns)
        procedure = memory.u64(task + memory.offset("rpc_task.tk_msg"), "rpc_message.rpc_proc")
        rpc.op = (memory.u64(procedure, "rpc_procinfo.p_name") or 0) if procedure else 0
        owner = memory.u32(task, "rpc_task.tk_owner") or 0
        leader = self._tasks.get(owner)
        # Kernel threads own background work; only a process is a submitter.
        if leader is not None and memory.u64(leader, "task_struct.mm"):
            rpc.proc.tgid = owner
            rpc.proc.start_ns = tasks.start_ns(self._memory, leader)
            rpc.comm = (memory.text(leader, "task_struct.comm", 16) or "").encode()
            rpc.tid = owner
        rqst = memory.u64(task, "rpc_task.tk_rqstp")
        if rqst:
            self._read_transmission(rqst, rpc)
        return rpc

    def _read_transmission(self, rqst: int, rpc: RpcRec) -> None:
        memory = self._memory
        xid = memory.u32(rqst, "rpc_rqst.rq_xid") or 0
        rpc.xid = struct.unpack(">I", struct.pack("<I", xid))[0]
        rpc.transmits = memory.u32(rqst, "rpc_rqst.rq_ntrans") or 0
        rpc.reserved_ns = rpc.begin_ns
        if rpc.transmits:
            rpc.sent_ns = memory.u64(rqst, "rpc_rqst.rq_xtime") or 0
        transport = memory.u64(rqst, "rpc_rqst.rq_xprt")
        address = memory.read(transport + memory.offset("rpc_xprt.addr"), 28) if transport else None
        if address:
            rpc.peer = (ctypes.c_uint8 * 16)(*pack_peer(address))


def insert(found: Found, maps: Mapping[str, int]) -> int:
    """Put what was found into the maps, leaving alone what the programs have seen since.

    Return how many nfsd threads are among it that were at work.
    """
    threads = ThreadTable(maps)
    added = [op for op in found.threads.values() if threads.insert(bytes(op))]
    for name, records in (("rpcs", found.rpcs), ("held", found.packets)):
        for address, record in records.items():
            try:
                bpf.update(maps[name], struct.pack("<Q", address), bytes(record), only_new=True)
            except OSError as error:
                if error.errno not in (errno.EEXIST, errno.E2BIG):
                    raise
    return sum(bool(op.at_work) for op in added)


def permission_listeners(proc: Path) -> Iterator[PermissionListener]:
    """Yield every fanotify descriptor with permission marks on this host."""
    for each in descriptors(proc):
        if each.target != "anon_inode:[fanotify]":
            continue
        try:
            marks = permission_marks(fdinfo(proc, each))
        except ValueError:
            continue
        if marks:
            yield PermissionListener(each.pid, each.number, marks)


def permission_marks(fdinfo: str) -> str:
    """Return the mark lines with a permission event in their mask, joined by newlines."""
    kept = []
    for line in fdinfo.splitlines():
        fields = dict(word.split(":", 1) for word in line.split() if ":" in word)
        if line.startswith("fanotify ") and int(fields.get("mask", "0"), 16) & fanotify.PERMISSIONS:
            kept.append(line.strip())
    return "\n".join(kept)


def sleeping_threads(proc: Path) -> Iterator[tuple[int, int]]:
    """Yield (pid, tid) of each thread of a process that sleeps uninterruptibly."""
    for process in proc.iterdir():
        if not process.name.isdigit():
            continue
        try:
            threads = list((process / "task").iterdir())
        except OSError:
            continue
        for thread in threads:
            try:
                stat = (thread / "stat").read_bytes()
            except OSError:
                continue
            # The name in it is any bytes, parentheses too.
            if stat.rpartition(b")")[2].split()[:1] == [b"D"]:
                yield int(process.name), int(thread.name)
