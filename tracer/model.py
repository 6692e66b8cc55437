"""What blame reasons about: the rows of captures as plain, frozen objects.

The reader builds these from Parquet; the unit tests build them by hand. Nothing
here does IO. All times are microseconds; ``*_mono_us`` compare within one host.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

Side = Literal["server", "client"]


@dataclass(frozen=True, slots=True)
class ProcessKey:
    """One process for good: pid and start (CLOCK_BOOTTIME us) on a host."""

    pid: int
    start_us: int


@dataclass(frozen=True, slots=True)
class Process:
    """What is known of a process; None where unknown."""

    key: ProcessKey
    comm: str | None = None
    exe: str | None = None
    start_time: datetime | None = None
    uid: int | None = None
    cgroup: str | None = None
    container: str | None = None
    pod_uid: str | None = None
    pod_namespace: str | None = None
    pod_name: str | None = None
    command_line: str | None = None
    state: str | None = None
    kthread: bool = False

    @property
    def is_nfsd(self) -> bool:
        """Whether it is one of the threads that serve NFS."""
        return self.kthread and self.comm == "nfsd"


@dataclass(frozen=True, slots=True)
class Wait:
    """Waits of one thread inside one operation on the same stack and waker, summed.

    ``stack`` and ``waker_stack`` hold function names, innermost first. They lie
    within ``first_mono_us``..``last_mono_us``. ``waker`` is the process in whose
    context the thread was woken; None while in flight or if not seen. One that is
    "running" is none: it was on a CPU in the code of its ``owner``, "module NAME" or
    "bpf NAME ID". One that is "reclaiming" freed memory, on a CPU or asleep; "limited": as
    its cgroup had reached its limit.
    """

    kind: Literal["blocked", "runnable", "throttled", "held", "running", "reclaiming", "limited"]
    total_us: int
    count: int
    first_mono_us: int
    last_mono_us: int
    max_us: int = 0
    in_flight: bool = False
    stack: tuple[str, ...] = ()
    waker: ProcessKey | None = None
    waker_stack: tuple[str, ...] = ()
    waker_tid: int | None = None
    fanotify_group: str | None = None
    unread_us: int | None = None
    owner: str | None = None


@dataclass(frozen=True, slots=True)
class Operation:
    """One row of ``operations`` with its waits. See schema.OPERATIONS for the fields."""

    host: str
    side: Side
    layer: Literal["rpc", "vfs", "kernel", "answer", "between"]
    op_id: int
    op: str
    begin_mono_us: int
    wall_us: int
    parent_id: int | None = None
    nfs_op: str | None = None
    xid: int | None = None
    process: ProcessKey | None = None
    tid: int | None = None
    comm: str | None = None
    peer: str | None = None
    mount: str | None = None
    volume: str | None = None
    device: str | None = None
    disk: str | None = None
    in_flight: bool = False
    begin_known: bool = True
    queue_us: int | None = None
    serve_us: int | None = None
    send_us: int | None = None
    slot_us: int | None = None
    remote_us: int | None = None
    wake_us: int | None = None
    waits_lost_us: int = 0
    writer: ProcessKey | None = None
    transmits: int | None = None
    status: int | None = None
    status_before: int | None = None
    nfs_status: int | None = None
    dropped: bool | None = None
    rtt_us: int | None = None
    file: str | None = None
    inode: int | None = None
    call: str | None = None
    hook: str | None = None
    waits: tuple[Wait, ...] = ()

    @property
    def end_mono_us(self) -> int:
        """When it ended, or was last seen if in flight."""
        return self.begin_mono_us + self.wall_us


@dataclass(frozen=True, slots=True)
class IntervalWaits:
    """Waits of all faster operations of one interval, summed (rows without op_id)."""

    end_mono_us: int
    side: Side
    op: str | None
    wait: Wait


@dataclass(frozen=True, slots=True)
class Listener:
    """A process that holds a fanotify group with permission events."""

    process: ProcessKey
    group: str | None
    reads: int | None = None
    writes: int | None = None
    blocked: int | None = None
    marks: str | None = None


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds what others wait for, see schema.HOLDERS."""

    process: ProcessKey
    kind: Literal["frozen", "channel", "queue", "program", "peer", "only-peer", "lease"]
    what: str | None = None
    mount: str | None = None
    since_mono_us: int | None = None
    until_mono_us: int | None = None


@dataclass(frozen=True, slots=True)
class DiskUse:
    """A disk's time that went to a process, or to nfsd for a client, see schema.DISK_USE."""

    process: ProcessKey | None
    disk: str
    begin_mono_us: int
    end_mono_us: int
    requests: int
    busy_us: int
    client: str | None = None
    write: bool | None = None
    queued_us: int | None = None
    moved_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class JournalUse:
    """Blocks of a journal that a process filled, see schema.JOURNAL_USE."""

    process: ProcessKey
    device: str
    begin_mono_us: int
    end_mono_us: int
    handles: int
    blocks: int


@dataclass(frozen=True, slots=True)
class MemoryUse:
    """Memory that a process took while it was short, see schema.MEMORY_USE."""

    process: ProcessKey | None
    begin_mono_us: int
    end_mono_us: int
    taken_bytes: int


@dataclass(frozen=True, slots=True)
class Syncs:
    """How often a process of a server called fsync on an exported filesystem in an interval."""

    process: ProcessKey
    mount: str | None
    begin_mono_us: int
    end_mono_us: int
    count: int


@dataclass(frozen=True, slots=True)
class Transfer:
    """Data that a client's process wrote to a server, or read, in an interval."""

    process: ProcessKey | None
    peer: str | None
    write: bool
    begin_mono_us: int
    end_mono_us: int
    moved_bytes: int


@dataclass(frozen=True, slots=True)
class LatencyRow:
    """Summed histogram of one (side, layer, op) on one host: ``counts[bucket]``."""

    side: Side
    layer: str
    op: str
    counts: Mapping[int, int]
    sum_us: int
    max_us: int
    comm: str | None = None


@dataclass(frozen=True, slots=True)
class Recorded:
    """Who was seen to do what, however fast: the keys of ``latency`` without the figures."""

    side: Side
    op: str
    comm: str | None = None
    pid: int | None = None
    mount: str | None = None
    peer: str | None = None


@dataclass(frozen=True, slots=True)
class Count:
    """How often something happened on one host while recording, see schema.COUNTS."""

    side: Side
    kind: str
    op: str | None
    status: int | None
    peer: str | None
    count: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One figure of the host at ``ts``."""

    ts: datetime
    scope: str
    name: str | None
    metric: str
    value: float


@dataclass(frozen=True, slots=True)
class Event:
    """One row of ``events``."""

    ts: datetime
    kind: str
    name: str
    text: str | None
    count: int


@dataclass(frozen=True, slots=True)
class Probe:
    """One row of ``probes``."""

    probe: str
    purpose: str
    attached: bool
    target: str | None
    reason: str | None
    lost: str | None


@dataclass(frozen=True, slots=True)
class HostCapture:
    """All that was recorded on one host in one boot.

    ``addresses`` are the host's own IP addresses: they join a client's ``peer``
    with the server whose capture is there, and the other way round.
    ``answers``: what threads did that others waited for, the operations of layer "answer".
    ``answered``: for each interval in which RPCs of the client ended, its begin and end
    on CLOCK_MONOTONIC in microseconds, and how many; in order.
    ``incomplete`` says in words why the data is not whole; empty if it is.
    ``wall_minus_mono_us``: CLOCK_REALTIME minus CLOCK_MONOTONIC when recording
    started; None if not recorded.
    """

    host: str
    sides: tuple[Side, ...]
    kernel: str
    boot_id: str
    start: datetime
    end: datetime
    threshold_us: int
    addresses: frozenset[str] = frozenset()
    nfsd_threads: int | None = None
    operations: Sequence[Operation] = ()
    answers: Sequence[Operation] = ()
    interval_waits: Sequence[IntervalWaits] = ()
    processes: Mapping[ProcessKey, Process] = field(default_factory=dict)
    listeners: Sequence[Listener] = ()
    holders: Sequence[Holder] = ()
    disk_use: Sequence[DiskUse] = ()
    journal_use: Sequence[JournalUse] = ()
    memory_use: Sequence[MemoryUse] = ()
    syncs: Sequence[Syncs] = ()
    transfers: Sequence[Transfer] = ()
    latency: Sequence[LatencyRow] = ()
    recorded: Sequence[Recorded] = ()
    answered: Sequence[tuple[int, int, int]] = ()
    counts: Sequence[Count] = ()
    samples: Sequence[Sample] = ()
    events: Sequence[Event] = ()
    probes: Sequence[Probe] = ()
    losses: Mapping[str, int] = field(default_factory=dict)
    overhead: Mapping[str, float] = field(default_factory=dict)
    incomplete: tuple[str, ...] = ()
    wall_minus_mono_us: int | None = None

    def rpcs_ended(self, side: Side) -> int:
        """Return how many RPCs of a side ended while it was recorded."""
        rows = (row for row in self.latency if row.side == side and row.layer == "rpc")
        return sum(sum(row.counts.values()) for row in rows)

    def mono_us(self, moment: datetime) -> float | None:
        """Return a moment on the host's CLOCK_MONOTONIC; None if its clocks are not known."""
        if self.wall_minus_mono_us is None:
            return None
        return moment.timestamp() * 1e6 - self.wall_minus_mono_us
