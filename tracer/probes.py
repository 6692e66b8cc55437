"""The probe table and the plan made of it: facts in, what to attach out. Pure.

Raw tracepoints come first: stable names, no dependency on inlining, the cheapest
dispatch. Functions without one are traced by fentry/fexit, which, unlike a
kretprobe, loses no return however many threads sleep in the function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from tracer.kernel import functions, offsets, standins, templates

Kind = Literal["raw_tp", "tp_btf", "fentry", "fexit", "run", "iter", "type"]


@dataclass(frozen=True, slots=True)
class Probe:
    """One BPF program: where it goes, what for, what is lost without it.

    ``program`` names it in captures and, unless ``template`` does, in the BPF source;
    ``filling`` is put into a template's code. ``older`` are names that the target had
    before. One ``on_demand`` is attached only as long as there is a use for it. One
    ``if_there`` is of a filesystem: without its module nothing is missed. ``reads``: the
    struct without which its program is empty.
    """

    program: str
    kind: Kind
    target: str
    side: Literal["server", "client", "both"]
    purpose: str
    module: str = "vmlinux"
    lost: str = ""
    required: bool = False
    older: tuple[str, ...] = ()
    template: str | None = None
    filling: templates.Filling | None = None
    on_demand: bool = False
    if_there: bool = False
    reads: str = ""


@dataclass(frozen=True, slots=True)
class Missing:
    """A probe of the table that this kernel cannot have, and why."""

    probe: Probe
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What to load on this host."""

    probes: tuple[Probe, ...]
    missing: tuple[Missing, ...]


# Their programs load fields of the arguments, or pass one on as a task: for that the
# verifier must know the arguments' types.
_TYPED: Final = frozenset(
    {
        "sched_switch",
        "sched_waking",
        "svc_process",
        "svc_send",
        "svc_xprt_dequeue",
        "rpc_task_begin",
        "rpc_task_end",
        "rpc_stats_latency",
        "xprt_reserve",
        "xprt_transmit",
    }
)


_UNTYPED: Final = "no type information of it (modules have it from 5.11 on)"
# A kernel before 5.11 has no types of its modules.
TYPED_MODULE: Final = "sunrpc"


def _tp(
    target: str,
    side: Literal["server", "client", "both"],
    purpose: str,
    lost: str,
    *,
    module: str = "sunrpc",
    required: bool = False,
    older: tuple[str, ...] = (),
    on_demand: bool = False,
    if_there: bool = False,
    reads: str = "",
) -> Probe:
    return Probe(
        program=f"on_{target}",
        kind="tp_btf" if target in _TYPED else "raw_tp",
        target=target,
        side=side,
        purpose=purpose,
        lost=lost,
        module=module,
        required=required,
        older=older,
        on_demand=on_demand,
        if_there=if_there,
        reads=reads,
    )


TABLE: Final = (
    _tp(
        "sched_switch",
        "both",
        "threads inside an operation leave and get a CPU",
        "all waits",
        module="vmlinux",
        required=True,
    ),
    _tp(
        "sched_waking",
        "both",
        "who wakes a thread inside an operation",
        "wakers",
        module="vmlinux",
        required=True,
    ),
    Probe(
        "on_sleeper",
        "iter",
        "bpf_iter_task",
        "both",
        "stacks of operations that hang",
        lost="what operations that have not ended wait for",
        required=True,
    ),
    _tp(
        "sched_migrate_task",
        "both",
        "a thread waits for another CPU than before",
        "waits for a CPU may be put down to who had another",
        module="vmlinux",
        required=True,
    ),
    _tp(
        "sched_process_exec",
        "both",
        "a process becomes another program",
        "the right name of a process that was seen before it became what it is",
        module="vmlinux",
    ),
    _tp(
        "sched_process_exit",
        "both",
        "forget threads that end",
        "room in the thread table after very many threads",
        module="vmlinux",
    ),
    Probe(
        "on_peek",
        "run",
        "",
        "both",
        "read kernel memory on demand",
        lost="the names of operations and what was stuck before recording began",
        required=True,
    ),
    Probe(
        "fsnotify_insert_event_enter",
        "fentry",
        "fsnotify_insert_event",
        "both",
        "the group a permission event waits for",
        # Its name on 5.10.
        older=("fsnotify_add_event",),
        lost="the fanotify group of a wait (its waker still tells)",
    ),
    Probe(
        "fsnotify_remove_first_event_exit",
        "fexit",
        "fsnotify_remove_first_event",
        "both",
        "a listener takes an event out of its queue",
        lost="events not yet read apart from those read and not answered",
    ),
    Probe(
        "fanotify_read_enter",
        "fentry",
        "fanotify_read",
        "both",
        "who reads a fanotify group",
        lost="readers of fanotify groups",
    ),
    Probe(
        "fanotify_write_enter",
        "fentry",
        "fanotify_write",
        "both",
        "who answers a fanotify group",
        lost="responders of fanotify groups",
    ),
    Probe(
        "freeze_super_enter",
        "fentry",
        "freeze_super",
        "both",
        "who freezes a filesystem",
        lost="who froze a filesystem (who thaws it still tells)",
    ),
    Probe(
        "thaw_super_enter",
        "fentry",
        "thaw_super",
        "both",
        "a filesystem is thawed",
        lost="who froze a filesystem (who thaws it still tells)",
    ),
    Probe(
        "nf_queue_entry_get_refs_enter",
        "fentry",
        "nf_queue_entry_get_refs",
        "both",
        "a packet is put into a netfilter queue",
        lost="packets that a process holds apart from the network",
    ),
    Probe(
        "nf_reinject_enter",
        "fentry",
        "nf_reinject",
        "both",
        "a process has decided on a packet",
        # Since 3f8019688894 (v6.9) that is the module's own, and calls this at its end.
        older=("nf_queue_entry_free",),
        lost="packets that a process holds apart from the network",
    ),
    Probe(
        "fsnotify_parent_enter",
        "fentry",
        "__fsnotify_parent",
        "client",
        "permission events on NFS files",
        lost="agents on the client that hold opens and reads",
    ),
    Probe(
        "fsnotify_parent_exit",
        "fexit",
        "__fsnotify_parent",
        "client",
        "end of permission events on NFS files",
        lost="agents on the client that hold opens and reads",
    ),
    Probe(
        "on_hrtimer_expire_entry",
        "raw_tp",
        "hrtimer_expire_entry",
        "both",
        "threads inside an operation run code that is not the kernel's own",
        lost="what modules and BPF programs of others take on the CPU",
        on_demand=True,
    ),
    # Ends first: what is seen to begin must be seen to end.
    _tp(
        "mm_vmscan_direct_reclaim_end",
        "both",
        "it has freed some, or found none",
        "work to free memory apart from other work",
        module="vmlinux",
    ),
    _tp(
        "mm_vmscan_direct_reclaim_begin",
        "both",
        "a thread has to free memory before it gets any",
        "work to free memory apart from other work, and who took it",
        module="vmlinux",
    ),
    _tp(
        "mm_vmscan_memcg_reclaim_end",
        "both",
        "it has freed some, or found none",
        "work to free a cgroup's memory apart from other work",
        module="vmlinux",
    ),
    _tp(
        "mm_vmscan_memcg_reclaim_begin",
        "both",
        "a thread has to free memory of its cgroup, which has reached its limit",
        "work to free a cgroup's memory apart from other work, and who took it",
        module="vmlinux",
    ),
    _tp(
        "mm_compaction_end",
        "both",
        "it has moved some",
        "work to move pages apart from other work",
        module="vmlinux",
    ),
    _tp(
        "mm_compaction_begin",
        "both",
        "a thread has to move pages to get several side by side",
        "work to move pages apart from other work",
        module="vmlinux",
    ),
    _tp(
        "mm_page_alloc",
        "both",
        "who takes memory while it is short",
        "who took the memory that NFS's threads had to free",
        module="vmlinux",
        on_demand=True,
    ),
    _tp(
        "mm_page_free",
        "both",
        "who gives memory back while it is short",
        "who took the memory that NFS's threads had to free",
        module="vmlinux",
        on_demand=True,
    ),
    # writeback_dirty_page before b9b0ff61eef5 (v5.16).
    _tp(
        "writeback_dirty_folio",
        "both",
        "who writes to a file",
        "whose data it is that the kernel writes back",
        module="vmlinux",
        older=("writeback_dirty_page",),
    ),
    _tp(
        "block_bio_queue",
        "server",
        "who submits I/O to a disk",
        "whom the disks work for",
        module="vmlinux",
    ),
    _tp(
        "block_split",
        "server",
        "who submits I/O that takes several requests",
        "whom the disks work for, of long I/O",
        module="vmlinux",
    ),
    _tp(
        "block_rq_complete",
        "server",
        "a disk has completed a request",
        "whom the disks work for",
        module="vmlinux",
    ),
    _tp(
        "jbd2_handle_stats",
        "server",
        "a process has changed a filesystem that keeps a journal",
        "who filled what a journal commits",
        module="jbd2",
        if_there=True,
    ),
    _tp(
        "xfs_log_ticket_ungrant",
        "server",
        "a process has ended a transaction of XFS",
        "who filled what the log of XFS commits",
        module="xfs",
        if_there=True,
        reads="xlog_ticket",
    ),
    _tp(
        "xfs_log_ticket_regrant",
        "server",
        "a process has ended a part of a transaction of XFS",
        "who filled what the log of XFS commits",
        module="xfs",
        if_there=True,
        reads="xlog_ticket",
    ),
    _tp("svc_process", "server", "begin of a server operation", "the server", required=True),
    _tp("svc_send", "server", "end of a server operation", "the server", required=True),
    _tp("svc_drop", "server", "a request is dropped or deferred", "when it was dropped"),
    _tp("svc_stats_latency", "server", "execution is over", "serve apart from send"),
    _tp("svc_xprt_dequeue", "server", "a thread takes up a transport", "the server", required=True),
    _tp("svcsock_data_ready", "server", "arrival of a request's bytes", "queue time"),
    _tp("svc_xdr_recvfrom", "server", "a request has been read", "queue time"),
    _tp("svc_xprt_free", "server", "forget transports that close", "room for transports"),
    _tp("nfsd_compound", "server", "begin of a COMPOUND", "operations in it", module="nfsd"),
    _tp(
        "nfsd_compound_status",
        "server",
        "end of an operation inside a COMPOUND",
        "operations in it",
        module="nfsd",
    ),
    _tp("svc_defer", "server", "a request is put off for an upcall", "how many were deferred"),
    _tp(
        "nfsd_drc_found",
        "server",
        "a retransmitted request",
        "hits of the duplicate request cache",
        module="nfsd",
    ),
    _tp("nfsd_file_acquire", "server", "a file is wanted", "file cache", module="nfsd"),
    _tp("nfsd_file_open", "server", "nfsd opens a file", "file cache", module="nfsd"),
    _tp("nfsd_cb_recall", "server", "a delegation is recalled", "recalls", module="nfsd"),
    Probe(
        "fh_verify_exit",
        "fexit",
        "fh_verify",
        "server",
        "the file an operation is about",
        module="nfsd",
        lost="files and exports of server operations",
    ),
    Probe(
        "fh_put_enter",
        "fentry",
        "fh_put",
        "server",
        "the name of a slow operation's file",
        module="nfsd",
        lost="names of files (the inode number still tells)",
    ),
    Probe(
        "refused_lock_exit",
        "fexit",
        "vfs_lock_file",
        "server",
        "who holds a byte-range lock that another asks for",
        lost="the client that others wait for with their locks",
    ),
    Probe(
        "on_sys_exit",
        "raw_tp",
        "sys_exit",
        "client",
        "end of calls that began before recording",
        lost="when calls that were stuck before recording ended",
        on_demand=True,
    ),
    _tp("rpc_task_begin", "client", "submission of an RPC", "the client's RPCs", required=True),
    _tp("rpc_task_end", "client", "end of an RPC task", "the client's RPCs", required=True),
    _tp("rpc_stats_latency", "client", "an RPC is complete", "the client's RPCs", required=True),
    _tp(
        "nfs_initiate_write",
        "client",
        "the kernel writes a file back",
        "mount and writer of what the kernel writes back",
        module="nfs",
    ),
    _tp(
        "nfs_initiate_commit",
        "client",
        "the kernel commits what it wrote back",
        "mount and writer of what the kernel commits",
        module="nfs",
    ),
    _tp("xprt_reserve", "client", "an RPC got its slot", "slot apart from send"),
    _tp("xprt_transmit", "client", "an RPC is sent", "send apart from remote"),
    _tp(
        "xprt_lookup_rqst",
        "client",
        "which worker reads replies",
        "replies that wait for a CPU apart from the network",
    ),
    _tp("xprt_timer", "client", "no reply within timeo", "how many RPCs timed out"),
    _tp("rpc_socket_connect", "client", "a connection is made", "reconnections"),
    _tp("xprt_disconnect_done", "client", "a connection is lost", "lost connections"),
)


def call_probes(
    sides: Sequence[str], arguments: functions.Arguments, modules: frozenset[str]
) -> tuple[list[Probe], list[Probe]]:
    """Return entry and exit probes of the calls to time, and those this kernel cannot have."""
    wanted = functions.wanted(sides, standins.client_calls(modules))
    found, missing = functions.traced(wanted, sides, arguments)
    return (
        [probe for one in found for probe in _pair(one)],
        [
            Probe(
                program=f"{call.functions[0]}_enter",
                kind="fentry",
                target=call.functions[0],
                side="client" if call.how == "client" else "server",
                module=call.module,
                purpose=f"{call.name} {_WHERE[call.how]}",
                lost=f"{call.name} calls {_WHERE[call.how]}",
            )
            for call in missing
        ],
    )


_WHERE: Final = {
    "client": "on NFS mounts",
    "server": "by nfsd",
    "local": "on exported filesystems",
    "hook": "for NFS",
}


def _pair(one: functions.Traced) -> Iterator[Probe]:
    """Yield the entry and the exit probe of a function."""
    call = one.call
    programs: tuple[tuple[str, Kind, templates.Template], ...] = (
        ("enter", "raw_tp" if call.event else "fentry", one.pair.enter),
        ("exit", "raw_tp" if call.event else "fexit", one.pair.exit),
    )
    for suffix, kind, template in programs:
        yield Probe(
            program=f"{one.function}_{suffix}",
            kind=kind,
            target=f"{one.function}_{suffix}" if call.event else one.function,
            side="both" if call.how == "hook" else "client" if call.how == "client" else "server",
            module=call.module,
            purpose=f"{call.name} {_WHERE[call.how]}",
            lost=f"{call.name} calls {_WHERE[call.how]}, as far as {one.function} serves them",
            template=template.name,
            filling=one.filling,
        )


def plan(
    sides: Sequence[str],
    has_tracepoint: Callable[[str], bool],
    arguments: Callable[[str, str], Sequence[str] | None],
    modules: frozenset[str],
    has_type: Callable[[str], bool],
) -> Plan:
    """Choose the probes for these sides.

    ``has_tracepoint(name)`` says what there is to attach to; ``arguments(module,
    function)`` and ``has_type(struct)`` answer from BTF, the former None where there is
    no such function; ``modules`` are the BTF objects there.
    """
    chosen: list[Probe] = []
    missing: list[Missing] = []
    found, absent = call_probes(sides, arguments, modules)
    for listed in (*TABLE, *found, *absent):
        if listed.side != "both" and listed.side not in sides:
            continue
        probe = _attachable(_present(listed, has_tracepoint, arguments), modules)
        if probe.if_there and probe.module not in modules and not has_tracepoint(probe.target):
            continue
        reason = _why_not(probe, has_tracepoint, arguments, modules)
        if reason is None and probe.reads and not has_type(probe.reads):
            reason = _UNTYPED
        if reason is None:
            chosen.append(probe)
        else:
            missing.append(Missing(probe, reason))
    missing += [
        Missing(_needing(each), _UNTYPED)
        for each in offsets.OPTIONAL
        if each.side in sides and not has_type(each.name)
    ]
    return Plan(tuple(chosen), tuple(missing))


def _needing(type_: offsets.OptionalType) -> Probe:
    """Return a struct that is missing as a row of the plan: nothing is attached for it."""
    return Probe(
        f"type_{type_.name}", "type", type_.name, type_.side, type_.purpose, lost=type_.lost
    )


def _present(
    probe: Probe,
    has_tracepoint: Callable[[str], bool],
    arguments: Callable[[str, str], Sequence[str] | None],
) -> Probe:
    """Return the probe with the first of its targets that this kernel has."""
    if not probe.older:
        return probe

    def is_there(target: str) -> bool:
        if probe.kind in ("raw_tp", "tp_btf"):
            return has_tracepoint(target)
        return arguments(probe.module, target) is not None

    found = next(filter(is_there, (probe.target, *probe.older)), probe.target)
    return replace(probe, target=found)


def _attachable(probe: Probe, modules: frozenset[str]) -> Probe:
    """Return the probe untyped where its module has no types."""
    if probe.kind == "tp_btf" and probe.module not in modules:
        return replace(probe, kind="raw_tp")
    return probe


def _why_not(
    probe: Probe,
    has_tracepoint: Callable[[str], bool],
    arguments: Callable[[str, str], Sequence[str] | None],
    modules: frozenset[str],
) -> str | None:
    if probe.kind == "run":
        return None
    # A raw tracepoint needs no types to be attached.
    is_there = probe.kind == "raw_tp" and has_tracepoint(probe.target)
    if not is_there and probe.module not in modules:
        return f"no BTF for module {probe.module} (not loaded, or kernel without module BTF)"
    if probe.kind == "raw_tp":
        return None if is_there else "this kernel has no such tracepoint"
    if probe.kind == "tp_btf":
        return None if has_tracepoint(probe.target) else "this kernel has no such tracepoint"
    found = arguments(probe.module, probe.target) is not None
    return None if found else "this kernel has no such function"
