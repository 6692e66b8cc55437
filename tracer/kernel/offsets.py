"""The fields of kernel structs we read, and what they are called on which kernel.

One table, decided by presence: the first candidate found in BTF is used.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Literal, NamedTuple


class Field(NamedTuple):
    """A field as BPF names it and the (struct, member) pairs it may be, newest first."""

    macro: str
    candidates: tuple[tuple[str, str], ...]


def _field(struct_name: str, member: str, *older: tuple[str, str]) -> Field:
    return Field(f"OFF_{struct_name}__{member}", ((struct_name, member), *older))


COMMON: Final = (
    # task_struct.state became __state in 2f064a59a11f ("sched: Change task_struct::state", v5.14).
    Field("OFF_task_struct__state", (("task_struct", "__state"), ("task_struct", "state"))),
    _field("task_struct", "pid"),
    _field("task_struct", "tgid"),
    # thread_info is the first of task_struct; the CPU moved there with bcf9033e5449 (v5.16).
    Field("OFF_task_struct__cpu", (("thread_info", "cpu"), ("task_struct", "cpu"))),
    _field("task_struct", "se"),
    _field("sched_entity", "cfs_rq"),
    # throttled_clock_task_time before 64eaf50731ac (v6.0).
    _field("cfs_rq", "throttled_clock_pelt_time", ("cfs_rq", "throttled_clock_task_time")),
    _field("task_struct", "flags"),
    _field("task_struct", "comm"),
    _field("task_struct", "mm"),
    _field("task_struct", "stack"),
    _field("task_struct", "group_leader"),
    _field("task_struct", "real_parent"),
    # start_boottime was real_start_time before cf25e24db61c (v5.5).
    _field("task_struct", "start_boottime"),
    _field("mm_struct", "exe_file"),
    _field("file", "f_path"),
    _field("file", "private_data"),
    _field("path", "dentry"),
    _field("dentry", "d_name"),
    _field("dentry", "d_sb"),
    _field("qstr", "name"),
    _field("file", "f_inode"),
    _field("inode", "i_sb"),
    _field("super_block", "s_dev"),
    _field("super_block", "s_magic"),
    _field("super_block", "s_writers"),
    _field("sb_writers", "frozen"),
    _field("kiocb", "ki_filp"),
    _field("vm_area_struct", "vm_file"),
    _field("vm_fault", "vma"),
    _field("address_space", "host"),
    _field("readahead_control", "mapping"),
    _field("fanotify_event", "mask"),
    _field("nf_queue_entry", "skb"),
    _field("nf_queue_entry", "state"),
    _field("nf_hook_state", "hook"),
    _field("nf_hook_state", "pf"),
    _field("sk_buff", "head"),
    _field("sk_buff", "network_header"),
    _field("sk_buff", "transport_header"),
)

SERVER: Final = (
    _field("bio", "bi_io_vec"),
    _field("bio", "bi_iter"),
    _field("bio", "bi_opf"),
    _field("bvec_iter", "bi_idx"),
    _field("bio_vec", "bv_page"),
    _field("page", "compound_head", ("page", "compound_info")),
    _field("page", "mapping", ("folio", "mapping")),
    _field("request", "q"),
    _field("request", "rq_disk"),
    _field("request", "start_time_ns"),
    _field("request", "bio"),
    _field("request", "cmd_flags"),
    _field("request_queue", "disk"),
    _field("gendisk", "major"),
    _field("gendisk", "first_minor"),
    _field("xlog", "l_mp"),
    _field("xfs_mount", "m_super"),
    _field("xlog_ticket", "t_unit_res"),
    _field("xlog_ticket", "t_curr_res"),
    _field("svc_sock", "sk_sk"),
    _field("svc_sock", "sk_xprt"),
    _field("sock", "sk_user_data"),
    _field("tcp_sock", "rcv_nxt"),
    _field("tcp_sock", "copied_seq"),
    _field("tcp_sock", "srtt_us"),
    _field("svc_rqst", "rq_xprt"),
    _field("svc_rqst", "rq_xid"),
    _field("svc_rqst", "rq_addr"),
    _field("svc_rqst", "rq_procinfo"),
    _field("svc_rqst", "rq_argp"),
    _field("svc_rqst", "rq_resp"),
    _field("svc_rqst", "rq_prog"),
    _field("svc_rqst", "rq_vers"),
    _field("svc_rqst", "rq_proc"),
    _field("svc_rqst", "rq_arg"),
    _field("xdr_buf", "len"),
    _field("svc_procedure", "pc_name"),
    _field("svc_fh", "fh_dentry"),
    _field("dentry", "d_inode"),
    _field("dentry", "d_parent"),
    _field("inode", "i_ino"),
    _field("nfs4_stid", "sc_client"),
    _field("nfs4_stateowner", "so_client"),
    # First of a file_lock is its file_lock_core since 4ca52f539865 (v6.9).
    _field("file_lock", "fl_owner", ("file_lock_core", "flc_owner")),
    _field("file_lock", "fl_lmops"),
    _field("file_lock", "fl_blocker", ("file_lock_core", "flc_blocker")),
    _field("nlm_lockowner", "host"),
    _field("nlm_host", "h_addr"),
    _field("nfs4_client", "cl_addr"),
    _field("nfsd4_compoundargs", "ops"),
    _field("nfsd4_op", "opdesc"),
    _field("nfsd4_operation", "op_name"),
)

CLIENT: Final = (
    _field("rpc_task", "tk_start"),
    _field("rpc_task", "tk_msg"),
    _field("rpc_task", "tk_rqstp"),
    _field("rpc_task", "tk_status"),
    _field("rpc_message", "rpc_proc"),
    _field("rpc_procinfo", "p_name"),
    _field("rpc_procinfo", "p_proc"),
    _field("rpc_rqst", "rq_task"),
    _field("rpc_rqst", "rq_xid"),
    _field("rpc_rqst", "rq_xprt"),
    _field("rpc_rqst", "rq_xtime"),
    _field("rpc_rqst", "rq_xmit_bytes_sent"),
    _field("rpc_rqst", "rq_reply_bytes_recvd"),
    _field("rpc_xprt", "addr"),
    _field("nfs_pgio_header", "inode"),
    _field("nfs_commit_data", "inode"),
)

# Read by the collector through peek, not by BPF programs: what was stuck before us.
SEED: Final = (
    _field("task_struct", "pid"),
    _field("task_struct", "tgid"),
    _field("task_struct", "comm"),
    _field("task_struct", "group_leader"),
    _field("task_struct", "start_boottime"),
    _field("task_struct", "tasks"),
    _field("task_struct", "thread_node"),
    _field("task_struct", "signal"),
    _field("signal_struct", "thread_head"),
    _field("task_struct", "se"),
    _field("sched_entity", "exec_start"),
    # kthread data hangs on worker_private since e32cf5dfbe22 (v5.17), set_child_tid before.
    Field(
        "OFF_task_struct__worker_private",
        (("task_struct", "worker_private"), ("task_struct", "set_child_tid")),
    ),
    _field("kthread", "data"),
    _field("task_struct", "files"),
    _field("files_struct", "fdt"),
    _field("fdtable", "fd"),
    _field("fdtable", "max_fds"),
    _field("file", "private_data"),
    _field("file", "f_op"),
    _field("file", "f_mode"),
    _field("task_struct", "stack"),
    _field("socket", "sk"),
    _field("socket", "file"),
    _field("sock", "sk_socket"),
    _field("sock_common", "skc_family"),
    _field("sock_common", "skc_net"),
    _field("sock_common", "skc_addrpair"),
    _field("sock_common", "skc_portpair"),
    _field("unix_sock", "peer"),
    _field("socket", "wq"),
    _field("socket_wq", "wait"),
    _field("pipe_inode_info", "rd_wait"),
    _field("poll_wqueues", "polling_task"),
    # Tasks that wait for an answer stand in fsnotify_group.fanotify_data.access_waitq.
    _field("fsnotify_group", "fanotify_data"),
    _field("fanotify_group_private_data", "access_waitq"),
    # Their events, once read, in its access_list.
    _field("fanotify_group_private_data", "access_list"),
    _field("fsnotify_group", "notification_list"),
    _field("fsnotify_event", "list"),
    _field("fanotify_event", "mask"),
    _field("fanotify_event", "pid"),
    _field("fanotify_perm_event", "path"),
    _field("pid", "numbers"),
    _field("path", "dentry"),
    _field("dentry", "d_sb"),
    _field("super_block", "s_dev"),
    _field("super_block", "s_magic"),
    _field("wait_queue_head", "head"),
    _field("wait_queue_entry", "entry"),
    _field("wait_queue_entry", "private"),
    _field("task_struct", "nsproxy"),
    _field("nsproxy", "net_ns"),
    _field("net", "gen"),
    _field("nfnl_queue_net", "instance_table"),
    _field("nfqnl_instance", "hlist"),
    _field("nfqnl_instance", "queue_list"),
    _field("nf_queue_entry", "list"),
)

SEED_SERVER: Final = (
    _field("dentry", "d_name"),
    _field("dentry", "d_parent"),
    _field("qstr", "name"),
    _field("svc_rqst", "rq_stime"),
    _field("svc_rqst", "rq_xid"),
    _field("svc_rqst", "rq_addr"),
    _field("svc_rqst", "rq_procinfo"),
    _field("svc_rqst", "rq_argp"),
    _field("svc_rqst", "rq_resp"),
    _field("svc_procedure", "pc_name"),
    _field("nfsd4_compoundres", "cstate"),
    _field("nfsd4_compound_state", "current_fh"),
    _field("nfsd3_attrstat", "fh"),
    _field("svc_fh", "fh_dentry"),
    _field("dentry", "d_inode"),
    _field("dentry", "d_sb"),
    _field("inode", "i_ino"),
    _field("super_block", "s_dev"),
    _field("cache_deferred_req", "recent"),
    _field("cache_deferred_req", "item"),
    _field("cache_deferred_req", "revisit"),
    _field("svc_deferred_req", "handle"),
    _field("svc_deferred_req", "addr"),
    _field("svc_deferred_req", "args"),
    _field("cache_detail", "others"),
    _field("cache_detail", "hash_table"),
    _field("cache_detail", "hash_size"),
    _field("cache_detail", "cache_request"),
    _field("cache_head", "cache_list"),
    _field("nfsd4_compoundargs", "ops"),
    _field("nfsd4_compoundargs", "opcnt"),
    _field("nfsd4_compoundres", "opcnt"),
    _field("nfsd4_op", "opdesc"),
    _field("nfsd4_operation", "op_name"),
)

SEED_CLIENT: Final = (
    _field("task_struct", "mm"),
    _field("sunrpc_net", "all_clients"),
    _field("rpc_clnt", "cl_clients"),
    _field("rpc_clnt", "cl_parent"),
    _field("rpc_clnt", "cl_tasks"),
    _field("rpc_task", "tk_task"),
    _field("rpc_task", "tk_client"),
    _field("rpc_task", "tk_runstate"),
    _field("wait_bit_queue_entry", "key"),
    _field("wait_bit_queue_entry", "wq_entry"),
    _field("wait_bit_key", "flags"),
    _field("rpc_task", "u"),
    _field("rpc_wait", "list"),
    _field("rpc_wait", "links"),
    _field("rpc_wait_queue", "tasks"),
    _field("nfs_net", "nfs_client_list"),
    _field("nfs_client", "cl_share_link"),
    _field("nfs_client", "cl_session"),
    _field("nfs_client", "cl_slot_tbl"),
    _field("nfs4_session", "fc_slot_table"),
    _field("nfs4_slot_table", "slot_tbl_waitq"),
    _field("rpc_task", "tk_owner"),
    _field("rpc_task", "tk_start"),
    _field("rpc_task", "tk_msg"),
    _field("rpc_task", "tk_rqstp"),
    _field("rpc_message", "rpc_proc"),
    _field("rpc_procinfo", "p_name"),
    _field("rpc_rqst", "rq_xid"),
    _field("rpc_rqst", "rq_xtime"),
    _field("rpc_rqst", "rq_ntrans"),
    _field("rpc_rqst", "rq_xprt"),
    _field("rpc_xprt", "addr"),
)

SIZES: Final = ("nfsd4_op", "wait_queue_head", "pt_regs", "bio_vec")


class OptionalType(NamedTuple):
    """A struct that the BPF programs do without where BTF has not got it."""

    name: str
    side: Literal["server", "client"]
    purpose: str
    lost: str


# Modules have BTF since 36e68442d1af ("bpf: Load and verify kernel module BTFs", v5.11).
# Before, only those of their types are known that vmlinux uses itself.
OPTIONAL: Final = (
    OptionalType(
        "nfsd4_op",
        "server",
        "which operation of a COMPOUND is running",
        "the names of a COMPOUND's operations before they end",
    ),
    OptionalType(
        "nfs4_client",
        "server",
        "from whom a delegation is recalled, and who holds a byte-range lock",
        "the client in the counts of recalls and of locks in the way",
    ),
    OptionalType(
        "cache_detail",
        "server",
        "which daemon a request waits for that was put off before recording",
        "the daemon that such a request waits for",
    ),
    OptionalType(
        "nfs_pgio_header",
        "client",
        "which file a WRITE of the kernel writes back",
        "mount and writer of what the kernel writes back",
    ),
    OptionalType(
        "nfs_commit_data",
        "client",
        "which file a COMMIT of the kernel is for",
        "mount and writer of what the kernel commits",
    ),
)

# Structs without whose fields the BPF source compiles to something that does without.
_DISPENSABLE: Final = frozenset(
    {
        *(each.name for each in OPTIONAL),
        "nfsd4_compoundargs",
        "nfsd4_operation",
        "nfs4_stid",
        "nfs4_stateowner",
        "nlm_lockowner",
        "nlm_host",
        # Read by programs on functions of nfsd, which cannot be attached either.
        "svc_fh",
        # Kernels without CPU quotas.
        "cfs_rq",
        # Without fanotify.
        "fanotify_event",
        # And without netfilter.
        "nf_queue_entry",
        "nf_hook_state",
        # The disk of a request moved from the one to the other: bpf/disk.h.
        "request",
        "request_queue",
        # Without XFS.
        "xlog",
        "xfs_mount",
        "xlog_ticket",
        # The socket behind a transport is searched for: bpf/svc_sock.h.
        "svc_sock",
    }
)


def is_dispensable(macro: str) -> bool:
    """Return whether the BPF source does without a field."""
    return macro.removeprefix("OFF_").partition("__")[0] in _DISPENSABLE


def fields(sides: Sequence[str]) -> tuple[Field, ...]:
    """Return the fields the BPF programs for these sides read."""
    return COMMON + (SERVER if "server" in sides else ()) + (CLIENT if "client" in sides else ())


def seed_fields(sides: Sequence[str]) -> tuple[Field, ...]:
    """Return the fields the collector reads to find what was stuck before it came."""
    return (
        SEED
        + (SEED_SERVER if "server" in sides else ())
        + (SEED_CLIENT if "client" in sides else ())
    )


def resolve(
    fields: tuple[Field, ...], offset: Callable[[str, str], int | None]
) -> tuple[dict[str, int], list[str]]:
    """Return ``({macro: offset}, [macros without any candidate])``; pure."""
    found: dict[str, int] = {}
    missing: list[str] = []
    for field in fields:
        for struct_name, member in field.candidates:
            value = offset(struct_name, member)
            if value is not None:
                found[field.macro] = value
                break
        else:
            missing.append(field.macro)
    return found, missing
