"""Captures built by hand for the tests of blame and report. Times in seconds."""

from __future__ import annotations

import heapq
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from tracer.blame import Analysis
from tracer.model import (
    Holder,
    HostCapture,
    Listener,
    Operation,
    Process,
    ProcessKey,
    Sample,
    Wait,
)

START = datetime(2026, 11, 22, 10, 0, tzinfo=UTC)
SERVER, CLIENT = "10.9.0.1", "10.9.0.2"
GROUP = "ffff8880041c2a00"

AGENT = ProcessKey(412, 3_100_000)
REDIS = ProcessKey(811, 5_120_000)
OTHER = ProcessKey(500, 9_000_000)
HOG = ProcessKey(600, 9_500_000)
NFSD = ProcessKey(2, 100_000)

SCHEDULE = ("__schedule", "schedule")
FANOTIFY = (
    *SCHEDULE,
    "fanotify_handle_event",
    "fsnotify",
    "__fsnotify_parent",
    "do_dentry_open",
    "dentry_open",
    "__nfsd_open.isra.0",
    "nfsd_file_do_acquire",
    "nfs4_get_vfs_file",
    "nfsd4_open",
    "nfsd4_proc_compound",
    "nfsd_dispatch",
)
ANSWER = ("try_to_wake_up", "__wake_up_common", "process_access_response", "fanotify_write")
RPC_WAIT = (
    *SCHEDULE,
    "rpc_wait_bit_killable",
    "__wait_on_bit",
    "out_of_line_wait_on_bit",
    "__rpc_execute",
    "rpc_execute",
    "nfs4_call_sync_sequence",
    "nfs4_file_fsync",
    "vfs_fsync_range",
)
IO_WAIT = (*SCHEDULE, "io_schedule", "folio_wait_bit_common", "filemap_read", "ext4_file_read_iter")
LOCK_WAIT = (*SCHEDULE, "rwsem_down_write_slowpath", "down_write", "path_openat", "do_filp_open")
UNLOCK = ("try_to_wake_up", "wake_up_q", "rwsem_wake.isra.0", "up_write", "path_openat")
INTERRUPT = ("try_to_wake_up", "__do_softirq", "__irq_exit_rcu", "asm_sysvec_apic_timer_interrupt")


def us(seconds: float) -> int:
    """Return microseconds."""
    return round(seconds * 1_000_000)


def wait(first: float, last: float, stack: Sequence[str], **changes: Any) -> Wait:
    """Return one blocked wait."""
    values: dict[str, Any] = {
        "kind": "blocked",
        "total_us": us(last - first),
        "count": 1,
        "max_us": us(last - first),
        "first_mono_us": us(first),
        "last_mono_us": us(last),
        "stack": tuple(stack),
    }
    return Wait(**(values | changes))


def held(first: float, last: float, **changes: Any) -> Wait:
    """Return a wait for the agent's permission which it ended, unless it is in flight."""
    values: dict[str, Any] = {"fanotify_group": GROUP}
    if not changes.get("in_flight"):
        values |= {"waker": AGENT, "waker_stack": ANSWER}
    return wait(first, last, FANOTIFY, **(values | changes))


def starved(first: float, last: float, by: ProcessKey = HOG, **changes: Any) -> Wait:
    """Return a wait for a CPU that ``by`` had."""
    return wait(first, last, (), kind="runnable", waker=by, **changes)


_ids = iter(range(1, 1 << 40))


def served(begin: float, end: float, *waits: Wait, queue: float | None = 0, **changes: Any):
    """Return an RPC that a server served."""
    values: dict[str, Any] = {
        "host": "server",
        "side": "server",
        "layer": "rpc",
        "op_id": next(_ids),
        "op": "COMPOUND",
        "nfs_op": "OP_OPEN",
        "begin_mono_us": us(begin),
        "wall_us": us(end) - us(begin),
        "queue_us": None if queue is None else us(queue),
        "peer": CLIENT,
        "waits": waits,
    }
    return Operation(**(values | changes))


def between(begin: float, end: float, *waits: Wait) -> Operation:
    """Return a time in which a server's thread had no request and was not free."""
    return served(begin, end, *waits, queue=None, layer="between", peer=None, nfs_op=None)


def call(begin: float, end: float, *waits: Wait, **changes: Any) -> Operation:
    """Return a client's VFS call; without waits it waited for an RPC all the time."""
    values: dict[str, Any] = {
        "host": "client",
        "side": "client",
        "layer": "vfs",
        "op_id": next(_ids),
        "op": "fsync",
        "begin_mono_us": us(begin),
        "wall_us": us(end) - us(begin),
        "process": REDIS,
        "comm": "redis-server",
        "mount": "/mnt/nfs",
        "waits": waits or (wait(begin, end, RPC_WAIT),),
    }
    return Operation(**(values | changes))


def rpc(begin: float, end: float, **changes: Any) -> Operation:
    """Return a client's RPC which spent all of its time at the server."""
    values: dict[str, Any] = {
        "host": "client",
        "side": "client",
        "layer": "rpc",
        "op_id": next(_ids),
        "op": "WRITE",
        "begin_mono_us": us(begin),
        "wall_us": us(end) - us(begin),
        "slot_us": 0,
        "send_us": 0,
        "remote_us": us(end) - us(begin),
        "process": REDIS,
        "comm": "redis-server",
        "peer": SERVER,
        "mount": "/mnt/nfs",
        "transmits": 1,
    }
    if not changes.get("in_flight"):
        values["wake_us"] = 0
    return Operation(**(values | changes))


def processes(*rows: Process) -> dict[ProcessKey, Process]:
    """Return processes by key."""
    return {row.key: row for row in rows}


QAXSAFED = Process(
    AGENT,
    comm="qaxsafed",
    exe="/opt/qaxsafe/qaxsafed",
    start_time=datetime(2026, 11, 2, 8, 0, tzinfo=UTC),
)


def listener(key: ProcessKey = AGENT, group: str | None = GROUP, **changes: Any) -> Listener:
    """Return a permission listener."""
    values: dict[str, Any] = {"reads": 30, "writes": 30, "marks": "fanotify sdev:800010 mask:30000"}
    return Listener(key, group, **(values | changes))


def server(operations: Iterable[Operation] = (), **changes: Any) -> HostCapture:
    """Return a server's capture with eight threads and an agent."""
    values: dict[str, Any] = {
        "host": "server",
        "sides": ("server",),
        "kernel": "6.1.0-50-cloud-amd64",
        "boot_id": "s",
        "start": START,
        "end": START + timedelta(seconds=90),
        "threshold_us": 100_000,
        "addresses": frozenset({SERVER}),
        "nfsd_threads": 8,
        "operations": tuple(operations),
        "processes": processes(QAXSAFED),
        "listeners": (listener(),),
    }
    return HostCapture(**(values | changes))


def client(operations: Iterable[Operation] = (), **changes: Any) -> HostCapture:
    """Return a client's capture."""
    values: dict[str, Any] = {
        "host": "client",
        "sides": ("client",),
        "kernel": "6.1.0-50-cloud-amd64",
        "boot_id": "c",
        "start": START,
        "end": START + timedelta(seconds=90),
        "threshold_us": 100_000,
        "addresses": frozenset({CLIENT}),
        "operations": tuple(operations),
    }
    return HostCapture(**(values | changes))


def quiet_samples() -> tuple[Sample, ...]:
    """Return the figures of a host at rest."""
    figures = [
        ("host", None, "cpu_busy_percent", 3.0),
        ("host", None, "mem_available_bytes", 4e8),
        ("disk", "vdb", "busy_percent", 1.5),
        ("disk", "vdb", "await_ms", 0.4),
        ("net", "eth0", "rx_bytes_per_s", 4e5),
        ("tcp", None, "retrans_segs_per_s", 0.0),
    ]
    return tuple(Sample(START, *figure) for figure in figures)


@dataclass(frozen=True)
class Incident:
    """Both captures of the incident, and the truth about it."""

    server: HostCapture
    client: HostCapture
    hold_us: int


def incident(openers: int = 30, threads: int = 8, hold: float = 2.0, clock: float = 5000.0):
    """Return the incident: an agent answers opens one by one, redis queues behind them.

    ``clock`` is how far the client's monotonic clock is ahead of the server's.
    """
    submitted = [(10 + i * 0.001, f"open{i}") for i in range(openers)]
    submitted += [(11 + i * 5.0, f"write{i}") for i in range(8)]
    free_at = [0.0] * threads
    heapq.heapify(free_at)
    agent_free = 0.0
    server_ops, client_ops = [], []
    held_us = 0
    for number, (time, name) in enumerate(sorted(submitted), start=1):
        begin = max(time, heapq.heappop(free_at))
        if name.startswith("open"):
            agent_free = max(agent_free, begin) + hold
            end, waits, nfs_op = agent_free, (held(begin, agent_free),), "OP_OPEN"
            held_us += us(end - begin)
            who = {"process": ProcessKey(900, 6_000_000), "comm": "opener", "op": "open"}
        else:
            end, waits, nfs_op = begin + 0.0002, (), "OP_WRITE"
            who = {}
        heapq.heappush(free_at, end)
        server_ops.append(served(time, end, *waits, queue=begin - time, xid=number, nfs_op=nfs_op))
        sent, replied = time + clock - 0.0005, end + clock + 0.0005
        vfs = call(sent, replied, **who)
        client_ops += [
            vfs,
            rpc(sent, replied, xid=number, parent_id=vfs.op_id, **(who | {"op": "OPEN"})),
        ]
    return Incident(
        server(server_ops, samples=quiet_samples()),
        client(client_ops, samples=quiet_samples()),
        held_us,
    )


def calls_made(run: Callable[[], object]) -> int:
    """Return how many functions of Python a run calls: its work, on any machine."""
    count = 0

    def profile(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(profile)
    try:
        run()
    finally:
        sys.setprofile(None)
    return count


def named(analysis: Analysis) -> list[tuple[str, str | None, str]]:
    """The culprits of a verdict: kind, name and cause."""
    return [(one.culprit.kind, one.culprit.name, one.cause) for one in analysis.verdict.culprits]


def four_seconds_away(
    rows: dict[ProcessKey, Process],
    *,
    on_client: Sequence[Operation] = (),
    on_server: Sequence[Operation] = (),
    holders: Sequence[Holder] = (),
) -> list[HostCapture]:
    """Return captures of an RPC that the server served in a moment."""
    vfs = call(10, 14)
    under = rpc(10, 14, xid=5, parent_id=vfs.op_id)
    there = served(50, 50.001, xid=5)
    # Another RPC tells the clocks.
    tick, tock = rpc(9, 9.001, xid=6), served(49, 49.001, xid=6)
    return [
        server([there, tock, *on_server], processes=rows, listeners=(), holders=holders),
        client([vfs, under, tick, *on_client], processes=rows),
    ]
