"""Python twins of ``bpf/records.h``: the records that leave the kernel.

Same names, same layout (``tests/unit/test_records.py`` compiles the header and
compares). Decoding to rows happens in the writer; the collector only moves bytes.
"""

from __future__ import annotations

import ctypes
from typing import Final

SIDE_SERVER: Final = 1
SIDE_CLIENT: Final = 2
SIDES: Final = {SIDE_SERVER: "server", SIDE_CLIENT: "client"}

LAYERS: Final = {1: "rpc", 2: "nfs", 3: "vfs", 4: "hook", 5: "kernel", 6: "answer", 7: "between"}
WAIT_KINDS: Final = {
    1: "blocked",
    2: "runnable",
    3: "throttled",
    4: "held",
    5: "running",
    6: "reclaiming",
    7: "limited",
}

HOLDS: Final = {
    1: "frozen",
    2: "channel",
    3: "queue",
    4: "program",
    5: "peer",
    6: "only-peer",
    7: "lease",
}

WAIT_BLOCKED: Final = 1
WAIT_RUNNABLE: Final = 2
WAIT_HELD: Final = 4
WAIT_RUNNING: Final = 5

MAX_WAITS: Final = 8
MAX_FRAMES: Final = 127

NO_STACK: Final = -1
FIRST_CROWDED: Final = 1 << 29
FIRST_SLEEPER: Final = 1 << 30

OP_IN_FLIGHT: Final = 1
OP_BEGIN_UNKNOWN: Final = 2
OP_DROPPED: Final = 4
RPC_ENDED: Final = 8
OP_KERNEL: Final = 16
OP_ANSWER: Final = 32
OP_AWAITS: Final = 128

ASKED: Final = 128

BETWEEN_REQUESTS: Final = 3

USE_DISK: Final = 1
USE_JOURNAL: Final = 2
USE_MEMORY: Final = 3
USE_DISK_WRITE: Final = 4
USE_SLOT_SHIFT: Final = 26

NAME_PARTS: Final = 4
NAME_PART_LEN: Final = 40

# Sizes of maps: what one busy server needs, in less than 20 MB of kernel memory.
MAP_SIZES: Final = {
    "MAX_KEYS": 16384,
    "MAX_COUNTS": 4096,
    "MAX_THREADS": 8192,
    "MAX_PLACES": 1 << 16,
    "MAX_RPCS": 16384,
    "MAX_MORE_STACKS": 2048,
    "MAX_XPRTS": 4096,
    "MAX_PROCS": 16384,
    "MAX_HELD": 4096,
    "MAX_BIOS": 8192,
    "MAX_DIRTIERS": 4096,
    "MAX_USES": 4096,
    "MAX_FOREIGN": 16384,
    "RING_PAGES": 1024,
    "PEEK_BYTES": 256,
}
RING_BYTES: Final = MAP_SIZES["RING_PAGES"] * 4096

# enum count_kind, in order: what is counted, as it stands in captures.
COUNTS: Final = (
    "status",
    "dropped",
    "deferred",
    "reply_cache",
    "file",
    "file_opened",
    "recall",
    "retransmit",
    "timeout",
    "connect",
    "disconnect",
    "conflict",
)

_u8, _u16, _u32, _s32, _u64 = (
    ctypes.c_uint8,
    ctypes.c_uint16,
    ctypes.c_uint32,
    ctypes.c_int32,
    ctypes.c_uint64,
)


class ProcId(ctypes.Structure):
    """A process for good."""

    _fields_ = [("start_ns", _u64), ("tgid", _u32), ("pad", _u32)]


class WaitRec(ctypes.Structure):
    """Waits of one thread in one operation, summed."""

    _fields_ = [
        ("waker", ProcId),
        ("group", _u64),
        ("first_ns", _u64),
        ("last_ns", _u64),
        ("total_ns", _u64),
        ("max_ns", _u64),
        ("unread_ns", _u64),
        ("stack", _s32),
        ("waker_stack", _s32),
        ("count", _u32),
        ("kind", _u32),
        ("waker_tid", _u32),
        ("pad", _u32),
    ]


class OpRec(ctypes.Structure):
    """An operation of a thread: an RPC served, or a VFS call."""

    _fields_ = [
        ("op_id", _u64),
        ("arrival_ns", _u64),
        ("begin_ns", _u64),
        ("reply_ns", _u64),
        ("end_ns", _u64),
        ("op", _u64),
        ("nfs_op", _u64),
        ("nfs_begin_ns", _u64),
        ("nfs_longest", _u64),
        ("nfs_longest_ns", _u64),
        ("ops", _u64),
        ("xprt", _u64),
        ("mark", _u64),
        ("off_ns", _u64),
        ("on_ns", _u64),
        ("waking_ns", _u64),
        ("waker", ProcId),
        ("group", _u64),
        ("event", _u64),
        ("read_ns", _u64),
        ("asked_ns", _u64),
        ("waits_lost_ns", _u64),
        ("queued_ns", _u64),
        ("cfs_rq", _u64),
        ("throttled", _u64),
        ("call_ns", _u64),
        ("hook_ns", _u64),
        ("call", _u32),
        ("hook", _u32),
        ("reclaim_ns", _u64),
        ("reclaim_waited_ns", _u64),
        ("reclaim_kind", _u32),
        ("slot", _u32),
        ("proc", ProcId),
        ("dev", _u64),
        ("dentry", _u64),
        ("ino", _u64),
        ("off_stack", _s32),
        ("waker_stack", _s32),
        ("off_kind", _u32),
        ("tid", _u32),
        ("xid", _u32),
        ("status", _s32),
        ("flags", _u32),
        ("nwaits", _u32),
        ("nfs_status", _u32),
        ("call_dev", _u32),
        ("waker_tid", _u32),
        ("counted", _u16),
        ("at_work", _u16),
        ("rtt_us", _u32),
        ("pad", _u32),
        ("peer", _u8 * 16),
        ("side", _u8),
        ("active", _u8),
        ("depth", _u8),
        ("call_depth", _u8),
        ("early", _u8),
        ("nearly", _u8),
        ("taken", _u8),
        ("watched", _u8),
        ("comm", ctypes.c_char * 16),
        ("name", (ctypes.c_char * NAME_PART_LEN) * NAME_PARTS),
        ("waits", WaitRec * MAX_WAITS),
    ]


class RpcRec(ctypes.Structure):
    """An RPC of a client."""

    _fields_ = [
        ("op_id", _u64),
        ("parent_id", _u64),
        ("begin_ns", _u64),
        ("reserved_ns", _u64),
        ("sent_ns", _u64),
        ("reply_ns", _u64),
        ("end_ns", _u64),
        ("op", _u64),
        ("dev", _u64),
        ("proc", ProcId),
        ("writer", ProcId),
        ("tid", _u32),
        ("xid", _u32),
        ("transmits", _u32),
        ("status", _s32),
        ("peer", _u8 * 16),
        ("flags", _u32),
        ("before", _s32),
        ("comm", ctypes.c_char * 16),
    ]


class LatencyKey(ctypes.Structure):
    """Key of the histogram maps."""

    _fields_ = [
        ("op", _u64),
        ("proc", ProcId),
        ("peer", _u8 * 16),
        ("dev", _u32),
        ("bucket", _u16),
        ("side", _u8),
        ("layer", _u8),
    ]


class LatencyVal(ctypes.Structure):
    """Value of the histogram maps."""

    _fields_ = [("count", _u64), ("sum_ns", _u64), ("max_ns", _u64), ("rpc_bytes", _u64)]


class LatencyRec(ctypes.Structure):
    """Value of the histogram maps of operations."""

    _fields_ = [("key", LatencyKey), ("val", LatencyVal)]


class WaitKey(ctypes.Structure):
    """Key of the interval wait maps."""

    _fields_ = [
        ("op", _u64),
        ("waker", ProcId),
        ("group", _u64),
        ("stack", _s32),
        ("waker_stack", _s32),
        ("kind", _u32),
        ("side", _u32),
    ]


class WaitVal(ctypes.Structure):
    """Value of the interval wait maps."""

    _fields_ = [("count", _u64), ("total_ns", _u64), ("max_ns", _u64), ("unread_ns", _u64)]


class CountKey(ctypes.Structure):
    """Key of the interval maps of things that happened; the value is their number."""

    _fields_ = [
        ("op", _u64),
        ("peer", _u8 * 16),
        ("kind", _u32),
        ("status", _s32),
        ("side", _u32),
        ("pad", _u32),
    ]


class UseKey(ctypes.Structure):
    """Key of the interval maps of who uses disks, journals, memory."""

    _fields_ = [
        ("slot", _u64),
        ("proc", ProcId),
        ("client", _u8 * 16),
        ("dev", _u32),
        ("kind", _u32),
    ]


class UseVal(ctypes.Structure):
    """Value of the interval maps of who uses disks, journals, memory."""

    _fields_ = [
        ("count", _u64),
        ("amount", _u64),
        ("most", _u64),
        ("queued_ns", _u64),
        ("moved_bytes", _u64),
    ]


class ProcRec(ctypes.Structure):
    """First sight of a process."""

    _fields_ = [
        ("comm", ctypes.c_char * 16),
        ("exe", ctypes.c_char * 32),
        ("cgroup_id", _u64),
        ("uid", _u32),
        ("ppid", _u32),
        ("kthread", _u32),
        ("pad", _u32),
    ]


class HolderRec(ctypes.Structure):
    """Who keeps a filesystem frozen."""

    _fields_ = [("proc", ProcId), ("since_ns", _u64), ("until_ns", _u64), ("dev", _u64)]


class HeldRec(ctypes.Structure):
    """A packet of NFS that a process has to decide on."""

    _fields_ = [
        ("op_id", _u64),
        ("since_ns", _u64),
        ("peer", _u8 * 16),
        ("side", _u32),
        ("flags", _u32),
    ]


class RequestKey(ctypes.Structure):
    """A request, by whoever has sent it."""

    _fields_ = [("peer", _u8 * 16), ("xid", _u32), ("pad", _u32)]


class DeferredRec(ctypes.Structure):
    """A request that was put off until an upcall is answered."""

    _fields_ = [("op_id", _u64), ("arrival_ns", _u64), ("stack", _s32), ("flags", _u32)]


class ListenerRec(ctypes.Structure):
    """Who reads and answers a fanotify group."""

    _fields_ = [
        ("proc", ProcId),
        ("reads", _u64),
        ("writes", _u64),
        ("last_read_ns", _u64),
        ("last_write_ns", _u64),
    ]


class CrewRec(ctypes.Structure):
    """nfsd's threads, as the programs count them."""

    _fields_ = [("busy", _u64), ("since_ns", _u64), ("none_ns", _u64), ("times", _u64)]


class CrewSize(ctypes.Structure):
    """What the programs are told about nfsd's threads."""

    _fields_ = [("threads", _u64), ("before", _u64), ("begun_ns", _u64)]
