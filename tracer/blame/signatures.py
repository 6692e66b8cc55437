"""What a kernel stack waits for: one table of signatures, the first that matches wins.

Patterns are shell patterns over function names. Names are compared without the
compiler's suffixes (``.isra.0``, ``.constprop.0``, ``.cold``). To extend the table,
add a row and a real stack to ``tests/unit/test_blame_signatures.py``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import translate
from functools import lru_cache
from typing import Final, Literal

from tracer.blame.causes import Cause
from tracer.model import Side

# Two classes besides the causes: "rpc" is split further by the RPCs under way,
# "idle" is a thread that waits for work, which is nobody's stall.
WaitClass = Cause | Literal["rpc", "idle"]


@dataclass(frozen=True, slots=True)
class Signature:
    """A row: the class of a stack that has any frame of ``any_of``.

    ``also``: one of these must be there too; ``unless``: none of these may be;
    ``innermost``: look only at the frame that called the scheduler.
    """

    wait_class: WaitClass
    any_of: tuple[str, ...]
    also: tuple[str, ...] = ()
    unless: tuple[str, ...] = ()
    side: Side | None = None
    innermost: bool = False


# What sends a server's replies.
_SENDS: Final = ("svc_send", "svc_tcp_sendto", "svc_tcp_sendmsg", "svc_rdma_sendto")

SIGNATURES: Final = (
    # From 6.6 every nfsd stack has svc_recv, so only the innermost frame tells idleness.
    Signature("idle", ("svc_recv", "svc_get_next_xprt", "svc_rqst_wait_for_work"), innermost=True),
    Signature("fanotify", ("fanotify_handle_event", "fanotify_get_response")),
    # percpu_rwsem is also used elsewhere in the kernel, but inside NFS operations it is
    # the writers' count of a filesystem.
    Signature(
        "frozen",
        (
            "percpu_rwsem_wait",
            "__percpu_down_read",
            "percpu_down_read",
            "__sb_start_write",
            "sb_start_write",
            "__refrigerator",
            "do_freezer_trap",
        ),
    ),
    Signature("delegation", ("__break_lease", "break_lease", "nfsd_wait_for_delegreturn")),
    Signature(
        "upcall",
        (
            "cache_check*",
            "cache_wait_req*",
            "cache_defer_req*",
            "rpc_pipe_*",
            "gss_refresh_upcall",
            "gss_create_upcall",
            "gss_cred_init",
            "wait_for_key_construction",
            "request_key*",
            "nfs_idmap_*",
            "cld_pipe_upcall",
            "__cld_pipe_upcall",
            "nfsd4_cld_*",
            "nsm_mon_unmon",
            "nsm_monitor",
            "request_wait_answer",
            "fuse_get_req",
            "fuse_wait_on_*_writeback",
        ),
    ),
    # Reclaim that itself waits for a disk or for NFS stays reclaim: memory is the cause.
    Signature(
        "reclaim",
        (
            "try_to_free_pages",
            "try_to_free_mem_cgroup_pages",
            "shrink_node*",
            "shrink_lruvec",
            "shrink_slab*",
            "shrink_*_list",
            "reclaim_throttle",
            "throttle_direct_reclaim",
            "wait_iff_congested",
            "__alloc_pages_slowpath",
            "__alloc_pages_direct_*",
            "try_to_compact_pages",
            "compact_zone*",
            "mem_cgroup_handle_over_high",
            "__mem_cgroup_handle_over_high",
            "out_of_memory",
            "svc_alloc_arg",
        ),
    ),
    # nfs4_delay may be inlined into its caller, which also waits for other things further in.
    Signature(
        "delay",
        ("nfs4_delay*", "nfs4_handle_exception", "nfs3_rpc_wrapper"),
        side="client",
        innermost=True,
    ),
    # nlm_wait_on_grace is inlined; nothing else sleeps in its caller itself.
    Signature("grace", ("nlm_wait_on_grace", "nlmclnt_call"), side="client", innermost=True),
    # Another's byte-range lock: the client asks again and again until it is free.
    Signature(
        "lock",
        (
            "nfs4_retry_setlk*",
            "nlmclnt_block",
            "nlmclnt_wait",
            "posix_lock_inode_wait",
            "locks_lock_inode_wait",
            "flock_lock_inode_wait",
        ),
        unless=("rpc_wait_bit_killable",),
    ),
    # nfs4_retry_setlk() is inlined; nothing else sleeps in its caller itself.
    Signature("lock", ("nfs4_proc_lock",), side="client", innermost=True),
    # Until the kernel's state manager has told the server again what it forgot.
    Signature("delay", ("nfs4_wait_clnt_recover",), side="client"),
    Signature(
        "rpc",
        (
            "rpc_wait_bit_killable",
            "rpc_wait_for_completion_task",
            "__rpc_wait_for_completion_task",
            "__rpc_execute",
            "nfs_wait_bit_killable",
            "nfs_wait_on_request",
            "nfs_wait_bit_uninterruptible",
            "nfs_iocounter_wait",
            "nfs_wait_client_init_complete",
            "wait_on_commit",
            "nfs_direct_wait",
            "nfs4_run_open_task",
            "_nfs4_wait_for_*",
            "balance_dirty_pages",
        ),
        side="client",
    ),
    # nfs_direct_wait() is inlined. The pages that are read to may have to be made first.
    Signature(
        "rpc",
        ("wait_for_completion*",),
        also=("nfs_file_direct_*",),
        unless=("handle_mm_fault",),
        side="client",
    ),
    # A page of an NFS file. Below a page fault it may be another file's page.
    Signature(
        "rpc",
        (
            "folio_wait_*",
            "wait_on_page_*",
            "__folio_lock*",
            "__lock_page*",
            "filemap_fdatawait*",
            "__filemap_fdatawait*",
            "filemap_update_page",
            "io_schedule",
        ),
        also=("nfs_*", "nfs4_file_*", "filemap_read", "filemap_fault", "filemap_write_and_wait*"),
        unless=("handle_mm_fault", "submit_bio_wait", "blk_*", "ext4_*", "xfs_*", "btrfs_*"),
        side="client",
    ),
    Signature(
        "journal",
        (
            "jbd2_*",
            "__jbd2_*",
            "start_this_handle",
            "wait_transaction_locked",
            "add_transaction_credits",
            "do_get_write_access",
            "ext4_fc_*",
            "xfs_log_*",
            "__xfs_log_*",
            "xlog_*",
            "xfs_ail_push*",
            "btrfs_commit_transaction*",
            "btrfs_wait_for_commit",
            "btrfs_sync_log",
            "wait_current_trans",
            "wait_log_commit",
            "f2fs_issue_checkpoint",
        ),
    ),
    Signature(
        "throttle",
        (
            "blkcg_maybe_throttle_current",
            "blkcg_iolatency_throttle",
            "ioc_rqos_throttle",
            "__throttle_cfs_rq*",
            "throttle_cfs_rq_work",
        ),
    ),
    Signature(
        "network",
        (
            "sk_stream_wait_*",
            "sk_wait_data",
            "tcp_sendmsg*",
            "tcp_recvmsg*",
            "inet_csk_*",
            "inet_stream_connect",
            "lock_sock_nested",
            "__lock_sock",
            "xs_tcp_*",
        ),
    ),
    # Replies of one connection go out one after the other: who waits for its mutex, and has not got
    # it yet, waits for the same client's network as who has it.
    Signature("network", _SENDS, side="server"),
    Signature(
        "lock",
        (
            "__mutex_lock*",
            "mutex_lock*",
            "rwsem_down_*",
            "down_read*",
            "down_write*",
            "__down*",
            "rt_mutex_*",
            "__rt_mutex_*",
            "rwbase_*",
            "d_alloc_parallel",
            "d_wait_lookup",
            "__wait_on_freeing_inode",
            "__wait_on_inode*",
            "wait_on_inode",
            "inode_wait_for_writeback",
        ),
    ),
    # Two opens of one file: the second waits until the first one's nfsd_file is made.
    Signature(
        "lock",
        ("nfsd_file_*",),
        also=("bit_wait*", "__wait_on_bit*", "out_of_line_wait_on_bit*", "wait_for_construction"),
        unless=("io_schedule",),
        side="server",
    ),
    # Dirty throttling waits for writeback to the local disk, not for free memory.
    Signature(
        "disk",
        (
            "io_schedule*",
            "folio_wait_*",
            "wait_on_page_*",
            "__wait_on_buffer",
            "bit_wait_io",
            "submit_bio_wait",
            "blkdev_issue_flush",
            "blk_*",
            "__blk_*",
            "rq_qos_wait",
            "wbt_wait",
            "dm_*",
            "md_*",
            "raid*",
            "iomap_dio_*",
            "xfs_buf_iowait",
            "xfs_buf_wait*",
            "btrfs_wait_ordered_*",
            "wait_for_completion_io*",
            "filemap_fdatawait*",
            "__filemap_fdatawait*",
            "sync_inodes_sb",
            "balance_dirty_pages",
        ),
    ),
    Signature("lsm", ("security_*", "bpf_lsm_*", "apparmor_*", "selinux_*")),
)

_SCHEDULER: Final = re.compile(
    r"_*(schedule|schedule_timeout\w*|schedule_hrtimeout\w*|preempt_schedule\w*|cond_resched|"
    r"freezable_schedule\w*|wait_woken|traceiter_\w+|bpf_trace_\w+)$"
)

# As tracer/procfs/symbols.py writes functions of out-of-tree modules.
_FOREIGN: Final = re.compile(r"\S+ \[(\S+)\]")

_ASKS_FOR_LOCK: Final = re.compile(r"nfs4_proc_lock|nfs4_retry_setlk\w*|nlmclnt_\w+")

# Frames that show the waker in an interrupt: whatever process it interrupted did nothing.
_INTERRUPT: Final = re.compile(
    r"asm_common_interrupt|common_interrupt|asm_sysvec_\w+|sysvec_\w+|__do_softirq|"
    r"handle_softirqs|do_softirq\w*|__irq_exit_rcu|irq_exit\w*|__sysvec_\w+|"
    r"el1h?_64_irq\w*|el1_interrupt|el1_irq|gic_handle_irq|run_ksoftirqd|"
    r"asm_exc_nmi|hrtimer_interrupt|do_IRQ|apic_timer_interrupt"
)

_ANSWERS_FANOTIFY: Final = re.compile(r"fanotify_write|process_access_response|fanotify_release")

# Frames of a waker that show it giving up what was waited for.
_RELEASES: Final = {
    "lock": re.compile(
        r"_*mutex_unlock\w*|up_read|up_write|up|__up\w*|rwsem_wake\w*|rwsem_mark_wake|"
        r"_*rt_mutex_\w*unlock\w*|rwbase_\w*unlock|wake_up_bit|__wake_up_bit|wake_up_var|"
        r"__d_lookup_\w+|__d_wake_\w+|unlock_new_inode|_*locks_wake_up_blocks\w*"
    ),
    "frozen": re.compile(r"thaw_super\w*|percpu_up_write"),
    # The answer to a packet's question, or the end of the queue.
    "packet-filter": re.compile(r"nfqnl_recv_verdict\w*|nfqnl_recv_config|instance_destroy\w*"),
    "upcall": re.compile(
        r"cache_do_downcall|cache_write\w*|key_instantiate\w*|\w+_pipe_downcall|fuse_dev_do_write"
    ),
}


_FROZEN_FILESYSTEM: Final = re.compile(
    r"percpu_rwsem_wait|(__)?percpu_down_read|(__)?sb_start_write"
)

_AT_LIMIT: Final = re.compile(
    r"try_to_free_mem_cgroup_pages|(__)?mem_cgroup_handle_over_high|try_charge_memcg|try_charge"
)

# Who looks something up in which of sunrpc's caches, keeps who the clients are, has the host of a
# lock watched, or asks for a file of a filesystem in user space: each has a channel to a daemon.
_CACHES: Final = (
    (
        re.compile(r"idmap_\w+|nfsd_map_\w+|(idtoname|nametoid)_\w+"),
        ("nfs4.idtoname", "nfs4.nametoid"),
    ),
    (re.compile(r"gss_\w+|rsc_\w+|rsi_\w+|svcauth_gss_\w+"), ("auth.rpcsec.init",)),
    (
        re.compile(r"exp(key)?_\w+|svc_export_\w+|rqst_exp_\w+|check_nfsd_access"),
        ("nfsd.export", "nfsd.fh"),
    ),
    (re.compile(r"unix_gid_\w+"), ("auth.unix.gid",)),
    (re.compile(r"_*cld_\w+|nfsd4_cld_\w+"), ("cld",)),
    (re.compile(r"ip_map_\w+|svcauth_unix_\w+"), ("auth.unix.ip", "auth.unix.gid")),
    (re.compile(r"nsm_\w+"), ("statd",)),
    (re.compile(r"call_sbin_request_key|call_usermodehelper_exec"), ("key",)),
    (re.compile(r"request_wait_answer|fuse_\w+"), ("fuse",)),
)


@dataclass(frozen=True, slots=True)
class _Compiled:
    wait_class: WaitClass
    any_of: re.Pattern[str]
    also: re.Pattern[str] | None
    unless: re.Pattern[str] | None
    side: Side | None
    innermost: bool


def _alternation(patterns: Iterable[str]) -> re.Pattern[str] | None:
    joined = "|".join(translate(pattern) for pattern in patterns)
    return re.compile(joined) if joined else None


def _compile(row: Signature) -> _Compiled:
    any_of = _alternation(row.any_of)
    assert any_of is not None
    return _Compiled(
        row.wait_class,
        any_of,
        _alternation(row.also),
        _alternation(row.unless),
        row.side,
        row.innermost,
    )


_COMPILED: Final = tuple(_compile(row) for row in SIGNATURES)


def bare(frame: str) -> str:
    """Return a function's name without the compiler's suffixes and offsets."""
    return frame.split(".", 1)[0].split("+", 1)[0].strip()


@lru_cache(maxsize=65536)
def classify(stack: tuple[str, ...], side: Side) -> WaitClass:
    """Return what a blocked thread with this stack (innermost frame first) waits for."""
    frames = [bare(frame) for frame in stack]
    caller = [frame for frame in frames if not _SCHEDULER.match(frame)][:1]
    for row in _COMPILED:
        if row.side not in (None, side):
            continue
        where = caller if row.innermost else frames
        if not any(row.any_of.match(frame) for frame in where):
            continue
        if row.also and not any(row.also.match(frame) for frame in frames):
            continue
        if row.unless and any(row.unless.match(frame) for frame in frames):
            continue
        return row.wait_class
    return "unknown"


def module_of(frame: str) -> str | None:
    """Return the out-of-tree module that a frame's function is of, None for the kernel's own."""
    match = _FOREIGN.fullmatch(frame)
    return match[1] if match else None


def module_waiting(stack: tuple[str, ...], side: Side) -> str | None:
    """Return the out-of-tree module that waits in this stack for something of its own.

    If what it has called waits for something known, as the function does that it may stand
    in for, the module is not what is waited for.
    """
    for index, frame in enumerate(stack):
        module = module_of(frame)
        if module is not None:
            return module if classify(stack[:index], side) == "unknown" else None
    return None


def in_interrupt(stack: tuple[str, ...]) -> bool:
    """Return whether a waker's stack shows an interrupt, which makes the waker no evidence."""
    return any(_INTERRUPT.fullmatch(bare(frame)) for frame in stack)


def answers_fanotify(waker_stack: tuple[str, ...]) -> bool:
    """Return whether the waker was answering (or closing) a fanotify group."""
    return not in_interrupt(waker_stack) and any(
        _ANSWERS_FANOTIFY.fullmatch(bare(frame)) for frame in waker_stack
    )


def releases(cause: str, waker_stack: tuple[str, ...]) -> bool:
    """Return whether the waker was giving up what a wait of this cause was for."""
    pattern = _RELEASES.get(cause)
    if pattern is None or in_interrupt(waker_stack):
        return False
    return any(pattern.fullmatch(bare(frame)) for frame in waker_stack)


def sends_reply(stack: tuple[str, ...]) -> bool:
    """Return whether a server's thread waits to hand a reply to the network."""
    return any(bare(frame) in _SENDS for frame in stack)


def asks_for_lock(stack: tuple[str, ...]) -> bool:
    """Return whether a client's call asks its server again and again for a byte-range lock."""
    return any(_ASKS_FOR_LOCK.fullmatch(bare(frame)) for frame in stack)


def is_frozen_filesystem(stack: tuple[str, ...]) -> bool:
    """Return whether a wait is for a filesystem to be thawed."""
    return any(_FROZEN_FILESYSTEM.fullmatch(bare(frame)) for frame in stack)


def is_at_limit(stack: tuple[str, ...]) -> bool:
    """Return whether memory is freed because a cgroup has reached its limit."""
    return any(_AT_LIMIT.fullmatch(bare(frame)) for frame in stack)


def asked_caches(stack: tuple[str, ...]) -> tuple[str, ...]:
    """Return the channels, by their caches of sunrpc, through one of which a daemon is asked."""
    for frame in stack:
        for pattern, caches in _CACHES:
            if pattern.fullmatch(bare(frame)):
                return caches
    return ()
