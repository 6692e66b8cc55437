"""The tables of a capture: schema as code.

``SCHEMA.md`` is generated from this file (``nfsblame schema``) and a unit test
compares the two. Types are those every Parquet engine reads: int64, double,
bool, plain string, timestamp[us, UTC]. Null means *unknown*, never zero.

Times: ``ts`` is wall-clock time, derived from the kernel's monotonic clock by
an offset taken once when recording starts, so a stepped clock cannot reorder a
capture. Columns ending in ``_mono_us`` are microseconds of CLOCK_MONOTONIC of
that host's boot and compare with each other only within one host and boot.
``*_start_us`` of a process is its start in microseconds of CLOCK_BOOTTIME:
together with the pid it names one process for good, also after pid reuse.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

SCHEMA_VERSION: Final = 1

# samples.scope of what recording itself costs
SCOPE_SELF: Final = "self"

Type = Literal["int64", "double", "bool", "string", "timestamp"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column: name, type, whether null ("unknown") may occur, meaning."""

    name: str
    type: Type
    nullable: bool
    about: str
    example: str


@dataclass(frozen=True, slots=True)
class Table:
    """One table: a folder ``CAPTURE/<name>/dt=YYYY-MM-DD/host=NAME/``."""

    name: str
    about: str
    columns: tuple[Column, ...]


def _c(name: str, type_: Type, about: str, example: str) -> Column:
    return Column(name, type_, False, about, example)


def _n(name: str, type_: Type, about: str, example: str) -> Column:
    return Column(name, type_, True, about, example)


_TS = _c("ts", "timestamp", "end of the interval, or time of the event", "2026-11-22 10:55:07Z")

LATENCY = Table(
    "latency",
    "Latency histograms: one row per interval, key and non-empty bucket. "
    "Merge by adding count and sum_us and taking the greatest max_us.",
    (
        _TS,
        _c("side", "string", "server or client", "server"),
        _c("layer", "string", "rpc, nfs (operation inside a COMPOUND), vfs or hook", "nfs"),
        _c("op", "string", "operation by its kernel name", "OPEN"),
        _n(
            "pid",
            "int64",
            "process: the caller; of an RPC that writes back, who wrote; null for nfsd's and the "
            "kernel's own",
            "811",
        ),
        _n("pid_start_us", "int64", "its start, CLOCK_BOOTTIME", "5120000"),
        _n("comm", "string", "its name", "redis-server"),
        _n("mount", "string", "mount point, on a server of the exported file", "/mnt/nfs"),
        _n("peer", "string", "client address on a server, server address on a client", "10.9.0.2"),
        _c("bucket", "int64", "log-linear bucket index, see tracer/histogram.py", "245"),
        _c("count", "int64", "operations that ended in this interval", "12"),
        _c("sum_us", "int64", "sum of their wall time", "84012"),
        _c("max_us", "int64", "longest of them", "9120"),
        _n("rpc_bytes", "int64", "RPCs: what they sent and received", "1049112"),
    ),
)

OPERATIONS = Table(
    "operations",
    "Slow and in-flight operations one by one, and some RPCs that client and server chose by "
    "their xid: they tell how the clocks differ. An operation in flight has a row for "
    "each interval in which it was seen; the last row of an op_id is the valid one.",
    (
        _TS,
        _c(
            "op_id", "int64", "names the operation within host, boot and recording", "1099511627781"
        ),
        _n("parent_id", "int64", "op_id of the VFS call that submitted this RPC", "42"),
        _c("side", "string", "server or client", "server"),
        _c(
            "layer",
            "string",
            "rpc, vfs, kernel (what all operations wait for), answer (what a thread did until "
            "another that waited for it could go on), or between (a server's thread that has no "
            "request and is not free)",
            "rpc",
        ),
        _c("op", "string", "RPC procedure or VFS call by its kernel name", "COMPOUND"),
        _n("nfs_op", "string", "operation inside the COMPOUND that took longest or runs", "OPEN"),
        _n("xid", "int64", "RPC transaction id, joins client and server", "305419896"),
        _n("pid", "int64", "process: the submitter on a client, the thread on a server", "811"),
        _n("tid", "int64", "thread", "811"),
        _n("pid_start_us", "int64", "start of the process, CLOCK_BOOTTIME", "5120000"),
        _n("comm", "string", "name of the process's main thread", "redis-server"),
        _n("peer", "string", "client address on a server, server address on a client", "10.9.0.2"),
        _n("mount", "string", "mount point, on a server of the exported file", "/mnt/nfs"),
        _n("volume", "string", "the pod's volume or PersistentVolume (client)", "pvc-8f0c2b1e"),
        _n("device", "string", "server: the block device of the file's filesystem", "dm-0"),
        _n(
            "disk",
            "string",
            "server: the one disk the file lies on; null = several, or unknown",
            "vdb",
        ),
        _n("file", "string", "server: the last file, from the mount or .../ of its folders", "/a"),
        _n("inode", "int64", "server: its inode number", "131075"),
        _n("call", "string", "in flight: the VFS call it is in (server)", "open"),
        _n("hook", "string", "in flight: the security hook it is in", "security_file_open"),
        _c("in_flight", "bool", "had not ended when this row was taken", "false"),
        _c("begin_known", "bool", "false if it began before recording at a time unknown", "true"),
        _c("begin_mono_us", "int64", "arrival (server) or submission (client)", "73120000"),
        _c("wall_us", "int64", "begin to end, or to this row's time if in flight", "5800000"),
        _n("queue_us", "int64", "server: arrived, no thread yet; null = arrival not seen", "4100"),
        _n("serve_us", "int64", "server: a thread works on it", "212"),
        _n("send_us", "int64", "server: reply handed to the socket; client: until sent", "31"),
        _n("slot_us", "int64", "client: waits for a session slot or the backlog", "0"),
        _n("remote_us", "int64", "client: on the wire and in the server", "980"),
        _n("wake_us", "int64", "client: reply is there, caller not running yet", "40"),
        _n("waits_lost_us", "int64", "blocked time for which no wait slot was free", "0"),
        _n("writer_pid", "int64", "client: who wrote what the kernel writes back", "811"),
        _n("writer_start_us", "int64", "its start", "5120000"),
        _n("transmits", "int64", "client rpc: times sent (1 = no retransmit)", "1"),
        _n("status", "int64", "status of the reply, 0 or negative errno; null if in flight", "0"),
        _n(
            "nfs_status", "int64", "server: NFS status of the reply, of its last failed op", "10008"
        ),
        _n("dropped", "bool", "server: the request got no reply", "false"),
        _n(
            "rtt_us",
            "int64",
            "server: round trip time of its connection when it ended, as TCP has it, smoothed",
            "310",
        ),
        _n(
            "status_before",
            "int64",
            "client rpc: of the try before, if the reply had it sent again; then slot_us holds the "
            "pause between them, too",
            "-10008",
        ),
    ),
)

WAITS = Table(
    "waits",
    "Time in which a thread inside an operation did not run. Rows with op_id belong to "
    "one row of operations; rows without sum up the faster operations "
    "of the interval: what they waited for, and on a server what held its threads.",
    (
        _TS,
        _n("op_id", "int64", "the operation, null for the interval's sums", "1099511627781"),
        _c("side", "string", "server or client", "server"),
        _n("op", "string", "RPC procedure or VFS call", "COMPOUND"),
        _n("tid", "int64", "the waiting thread; null for sums", "640"),
        _c(
            "kind",
            "string",
            "blocked (asleep), runnable (no CPU), throttled, held (a packet), running (sampled on "
            "a CPU, in code that is not the kernel's own), reclaiming (frees memory, on a CPU or "
            "asleep), limited (the same, at its cgroup's limit)",
            "blocked",
        ),
        _c("in_flight", "bool", "the wait had not ended", "false"),
        _c("count", "int64", "waits summed in this row", "1"),
        _c("total_us", "int64", "their time", "2000312"),
        _c("max_us", "int64", "longest", "2000312"),
        _n("first_mono_us", "int64", "begin of the first; null for sums", "73120000"),
        _n("last_mono_us", "int64", "end of the last, or ts if in flight", "75120312"),
        _n("stack_id", "int64", "stack of the waiting thread, see stacks", "6148914691236517205"),
        _n(
            "waker_pid",
            "int64",
            "process that woke the thread; runnable: that had the CPU; in flight: that has the "
            "other end of the socket or pipe it reads",
            "402",
        ),
        _n("waker_start_us", "int64", "its start", "3100000"),
        _n(
            "waker_stack_id",
            "int64",
            "stack of the waker at the end of the longest",
            "3074457345618258602",
        ),
        _n("waker_tid", "int64", "its thread that ended the last of them; null for sums", "403"),
        _n("fanotify_group", "string", "fanotify group asked for permission", "ffff8880041c2a00"),
        _n("unread_us", "int64", "of total_us: the listener had not read the event yet", "1200"),
        _n(
            "owner",
            "string",
            "running: module NAME, bpf NAME ID of a program, or irq softirq",
            "module agent",
        ),
    ),
)

COUNTS = Table(
    "counts",
    "Things that happened, by interval.",
    (
        _TS,
        _c("side", "string", "server or client", "server"),
        _c(
            "kind",
            "string",
            "status (a reply other than OK), dropped, deferred, reply_cache (a duplicate request: "
            "status 0 dropped, 1 answered), file (wanted from nfsd's file cache), file_opened (it "
            "was not there), recall (of a delegation), retransmit, timeout, connect, disconnect, "
            "conflict (a byte-range lock was refused for one that peer holds, null: somebody "
            "else; status 1: to the same client)",
            "status",
        ),
        _n("op", "string", "operation by its kernel name", "OPEN"),
        _n("status", "int64", "NFS status on a server, negative errno on a client", "10008"),
        _n("peer", "string", "client address on a server, server address on a client", "10.9.0.2"),
        _c("count", "int64", "how often", "3"),
    ),
)

STACKS = Table(
    "stacks",
    "Kernel stacks, written once in each file. The same stack has the same id everywhere.",
    (
        _TS,
        _c("stack_id", "int64", "hash of frames, referred to by waits", "6148914691236517205"),
        _c("frames", "string", "functions, innermost first, joined by ';'", "schedule;io_schedule"),
    ),
)

PROCESSES = Table(
    "processes",
    "Every process that appears in another table; the last row of (pid, start_us) is valid.",
    (
        _TS,
        _c("pid", "int64", "process id in the initial namespace", "402"),
        _c("start_us", "int64", "its start, CLOCK_BOOTTIME", "3100000"),
        _n("start_time", "timestamp", "its start, wall clock", "2026-11-02 08:00:00Z"),
        _n("comm", "string", "name of its main thread", "qaxsafed"),
        _n("exe", "string", "its executable; a base name if it ended at once", "/opt/qax/qaxsafed"),
        _n("uid", "int64", "real user id", "0"),
        _n("ppid", "int64", "parent", "1"),
        _n("cgroup", "string", "cgroup path (v2, or v1 memory)", "/system.slice/qax.service"),
        _n("container", "string", "container id from the cgroup path", "3f5a0c..."),
        _n("pod_uid", "string", "pod's uid from the cgroup path", "8f0c2b1e-8d5e-4a55-9d3c-..."),
        _n("pod_namespace", "string", "its namespace, by the kubelet's log folders", "default"),
        _n("pod_name", "string", "its name, likewise", "redis-0"),
        _n("command_line", "string", "only with record --command-lines", "redis-server *:6379"),
        _n("state", "string", "state letter of /proc/PID/stat at ts", "T"),
        _c("kthread", "bool", "kernel thread", "false"),
    ),
)

LISTENERS = Table(
    "listeners",
    "fanotify permission listeners: who holds a group, seen reading, answering or by fdinfo.",
    (
        _TS,
        _n("fanotify_group", "string", "kernel address; null if only seen in fdinfo", "ffff..."),
        _c("pid", "int64", "listener process", "402"),
        _c("start_us", "int64", "its start", "3100000"),
        _n("reads", "int64", "reads of the group while recording", "12"),
        _n("writes", "int64", "answers to the group while recording", "9"),
        _n("blocked", "int64", "threads now waiting for this group's answer", "8"),
        _n("marks", "string", "fdinfo lines of its permission marks", "fanotify sdev:800010 ..."),
    ),
)

HOLDERS = Table(
    "holders",
    "Processes that others have to wait for by what they hold: who froze a filesystem, who "
    "answers the kernel's questions to a daemon or on a packet, whose BPF program ran, who is at "
    "the other end of a connection, who did not give up a lease that nfsd asked for. The last row "
    "of a process and since is valid.",
    (
        _TS,
        _c(
            "kind",
            "string",
            "frozen (filesystem), channel (to a daemon), queue (NFQUEUE), program (BPF), peer (of "
            "another process, by TCP), only-peer (that has connections to it alone) or lease (on a "
            "file)",
            "frozen",
        ),
        _n(
            "what",
            "string",
            "channel: the cache, cld (nfsd's clients), statd, fuse or key (request-key); queue: "
            "its number; program: its id; peers: pid and start_us of the other process",
            "nfsd.export",
        ),
        _n("mount", "string", "frozen: the filesystem's mount point", "/srv/nfs"),
        _c("pid", "int64", "the process", "402"),
        _c("start_us", "int64", "its start", "3100000"),
        _n("since_mono_us", "int64", "since when it holds it; null = before recording", "73120000"),
        _n("until_mono_us", "int64", "until when; null = still", "75120000"),
    ),
)

DISK_USE = Table(
    "disk_use",
    "Whom the disks of a server work for: a disk's time from one completion to the next, put down "
    "to the process that asked for what was completed, or to the client that asked nfsd. Those "
    "who had less than a twentieth, and whose requests took no longer, stand in one row, without a "
    "process.",
    (
        _TS,
        _c("disk", "string", "the disk", "vdb"),
        _n(
            "pid", "int64", "who submitted the I/O; of writeback, who wrote to the file last", "402"
        ),
        _n("start_us", "int64", "its start", "3100000"),
        _n("client", "string", "at whose request nfsd did; it has no process here", "10.9.0.2"),
        _n("write", "bool", "it was written, not read", "true"),
        _c(
            "begin_mono_us", "int64", "the requests had the disk at some time from here", "73120000"
        ),
        _c("end_mono_us", "int64", "to here", "73187109"),
        _c("requests", "int64", "how many were completed", "12"),
        _c("busy_us", "int64", "time they had the disk", "61000"),
        _n("queued_us", "int64", "how long they took since they were made, added up", "301000"),
        _n("moved_bytes", "int64", "what they moved", "49152"),
    ),
)

JOURNAL_USE = Table(
    "journal_use",
    "Who filled the journals of a server's filesystems (ext4, XFS), by interval: what changed is "
    "written to the journal, and whoever wants to be sure of his own change waits for all of it.",
    (
        _TS,
        _c("device", "string", "the filesystem's block device", "vdb"),
        _c("pid", "int64", "who made the changes", "402"),
        _c("start_us", "int64", "its start", "3100000"),
        _c("begin_mono_us", "int64", "they were made from here", "73120000"),
        _c("end_mono_us", "int64", "to here", "74119312"),
        _c("handles", "int64", "how many", "52"),
        _c(
            "blocks",
            "int64",
            "blocks of metadata that they changed; of XFS, basic blocks (512 bytes) of log",
            "410",
        ),
    ),
)

MEMORY_USE = Table(
    "memory_use",
    "Who took memory while it was short: from the interval after a thread had to free some before "
    "it got any. Those who took less than a twentieth, and the kernel with its threads, nfsd's "
    "too, stand in one row, without a process.",
    (
        _TS,
        _n("pid", "int64", "who took it", "402"),
        _n("start_us", "int64", "its start", "3100000"),
        _c("begin_mono_us", "int64", "it was taken from here", "73120000"),
        _c("end_mono_us", "int64", "to here", "73187109"),
        _c(
            "taken_bytes",
            "int64",
            "how much, less what was given back (which may be more)",
            "2097152",
        ),
    ),
)

SAMPLES = Table(
    "samples",
    "Figures of the host beside the stalls, one value per row.",
    (
        _TS,
        _c("scope", "string", "host, disk, net, tcp, nfsd, or self (what recording costs)", "disk"),
        _n("name", "string", "device or interface", "vdb"),
        _c("metric", "string", "what, with its unit", "busy_percent"),
        _c("value", "double", "the figure over the interval", "1.5"),
    ),
)

EVENTS = Table(
    "events",
    "Kernel log lines, losses, notes on recording itself.",
    (
        _TS,
        _c("kind", "string", "kmsg, loss, note", "kmsg"),
        _c("name", "string", "source or loss reason", "ring_full"),
        _n("text", "string", "the line", "nfs: server 10.9.0.1 not responding, still trying"),
        _c("count", "int64", "how many", "1"),
    ),
)

PROBES = Table(
    "probes",
    "What was attached and what could not be.",
    (
        _TS,
        _c("probe", "string", "name in the probe table", "svc_process"),
        _c("purpose", "string", "what it is for", "begin of a server operation"),
        _c("attached", "bool", "in use", "true"),
        _n("target", "string", "tracepoint or function chosen", "raw_tp:svc_process"),
        _n("reason", "string", "why it is missing", "function not in this kernel"),
        _n("lost", "string", "what is lost without it", "queue time"),
    ),
)

TABLES: Final[tuple[Table, ...]] = (
    LATENCY,
    OPERATIONS,
    WAITS,
    COUNTS,
    STACKS,
    PROCESSES,
    LISTENERS,
    HOLDERS,
    DISK_USE,
    JOURNAL_USE,
    MEMORY_USE,
    SAMPLES,
    EVENTS,
    PROBES,
)
