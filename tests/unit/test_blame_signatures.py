"""Real stacks and what they wait for."""

from __future__ import annotations

import pytest

from tracer.blame.causes import ABOUT, CAUSE_NAMES
from tracer.blame.signatures import SIGNATURES, answers_fanotify, classify, in_interrupt, releases

# (side, class, stack innermost first)
STACKS = [
    (
        "server",
        "fanotify",
        "__schedule schedule fanotify_handle_event fsnotify __fsnotify_parent do_dentry_open "
        "dentry_open __nfsd_open.isra.0 nfsd_file_do_acquire nfs4_get_vfs_file nfsd4_open "
        "nfsd4_proc_compound nfsd_dispatch svc_process_common svc_process nfsd kthread",
    ),
    (
        "server",
        "fanotify",
        "__schedule schedule fanotify_handle_event.cold fsnotify security_file_permission "
        "rw_verify_area nfsd_splice_read nfsd4_encode_read",
    ),
    ("server", "idle", "__schedule schedule schedule_timeout svc_get_next_xprt svc_recv nfsd"),
    ("server", "idle", "__schedule schedule svc_recv nfsd kthread ret_from_fork"),
    (
        "server",
        "disk",
        "__schedule schedule io_schedule folio_wait_bit_common filemap_read "
        "generic_file_splice_read nfsd_splice_read nfsd4_encode_read svc_process svc_handle_xprt "
        "svc_recv nfsd",
    ),
    (
        "server",
        "journal",
        "__schedule schedule jbd2_log_wait_commit ext4_fsync_journal ext4_sync_file nfsd_commit "
        "nfsd4_commit nfsd4_proc_compound",
    ),
    (
        "server",
        "journal",
        "__schedule schedule io_schedule bit_wait_io __wait_on_bit out_of_line_wait_on_bit "
        "do_get_write_access jbd2_journal_get_write_access ext4_setattr nfsd_setattr",
    ),
    (
        "server",
        "journal",
        "__schedule schedule xlog_wait_on_iclog __xfs_log_force_lsn xfs_fsync nfsd_commit",
    ),
    (
        "server",
        "disk",
        "__schedule schedule schedule_timeout io_schedule_timeout __wait_for_common "
        "submit_bio_wait blkdev_issue_flush ext4_sync_file nfsd_commit",
    ),
    (
        "server",
        "disk",
        "__schedule schedule schedule_timeout io_schedule_timeout balance_dirty_pages "
        "balance_dirty_pages_ratelimited generic_perform_write ext4_buffered_write_iter "
        "nfsd_vfs_write",
    ),
    (
        "server",
        "lock",
        "__schedule schedule rwsem_down_write_slowpath down_write nfsd4_create_file nfsd4_open",
    ),
    # Read while it slept: without the functions that lead to the scheduler but the outermost.
    (
        "server",
        "lock",
        "down_write ext4_buffered_write_iter do_iter_readv_writev do_iter_write vfs_iter_write "
        "nfsd_vfs_write nfsd4_write nfsd4_proc_compound nfsd_dispatch svc_process_common",
    ),
    (
        "server",
        "lock",
        "__schedule schedule schedule_preempt_disabled __mutex_lock.constprop.0 "
        "nfs4_preprocess_seqid_op nfsd4_open_confirm",
    ),
    (
        "server",
        "lock",
        "__schedule schedule bit_wait __wait_on_bit out_of_line_wait_on_bit nfsd_file_do_acquire "
        "nfs4_get_vfs_file nfsd4_open",
    ),
    (
        "server",
        "reclaim",
        "__schedule schedule io_schedule folio_wait_bit_common shrink_folio_list shrink_lruvec "
        "shrink_node do_try_to_free_pages try_to_free_pages __alloc_pages_slowpath nfsd4_write",
    ),
    (
        "server",
        "frozen",
        "__schedule schedule percpu_rwsem_wait __percpu_down_read mnt_want_write nfsd_create",
    ),
    ("server", "delegation", "__schedule schedule __break_lease nfsd_open_verified nfsd4_open"),
    ("server", "upcall", "__schedule schedule_timeout cache_wait_req.isra.0 cache_check exp_find"),
    (
        "server",
        "upcall",
        "schedule request_wait_answer fuse_simple_request fuse_lookup_name fuse_lookup "
        "__lookup_slow lookup_one_len_unlocked nfsd_lookup_dentry nfsd_lookup nfsd4_open",
    ),
    (
        "client",
        "upcall",
        "schedule rpc_wait_bit_killable __wait_on_bit out_of_line_wait_on_bit __rpc_execute "
        "rpc_execute rpc_run_task rpc_call_sync nsm_mon_unmon nsm_monitor nlmclnt_proc do_setlk "
        "nfs_lock fcntl_setlk",
    ),
    # Who is behind the one that asks waits for him.
    (
        "server",
        "lock",
        "mutex_lock fuse_lock_inode fuse_lookup __lookup_slow lookup_one_len_unlocked "
        "nfsd_lookup_dentry nfsd_lookup nfsd4_open",
    ),
    (
        "server",
        "network",
        "__schedule schedule schedule_timeout wait_woken sk_stream_wait_memory "
        "tcp_sendmsg_locked tcp_sendmsg svc_tcp_sendto svc_send",
    ),
    ("server", "lsm", "__schedule schedule wait_woken something security_file_open do_dentry_open"),
    ("server", "unknown", "__schedule schedule some_driver_wait nfsd4_read"),
    ("server", "unknown", ""),
    (
        "client",
        "rpc",
        "__schedule schedule rpc_wait_bit_killable __wait_on_bit out_of_line_wait_on_bit "
        "__rpc_execute rpc_execute rpc_run_task nfs4_do_open nfs4_atomic_open nfs_atomic_open",
    ),
    (
        "client",
        "rpc",
        "__schedule schedule io_schedule folio_wait_bit_common folio_wait_writeback "
        "__filemap_fdatawait_range filemap_write_and_wait_range nfs_wb_all nfs4_file_flush",
    ),
    (
        "client",
        "rpc",
        "__schedule schedule io_schedule folio_wait_bit_common filemap_get_pages filemap_read "
        "generic_file_read_iter nfs_file_read vfs_read",
    ),
    ("client", "rpc", "__schedule schedule wait_on_commit __nfs_commit_inode nfs4_file_fsync"),
    (
        "client",
        "disk",
        "__schedule schedule io_schedule folio_wait_bit_common filemap_fault __do_fault "
        "handle_mm_fault exc_page_fault asm_exc_page_fault copy_page_from_iter nfs_file_write",
    ),
    (
        "client",
        "lock",
        "__schedule schedule rwsem_down_write_slowpath down_write nfs_start_io_write "
        "nfs_file_write",
    ),
    # As it is read from a sleeping thread: without the scheduler's own functions.
    ("client", "rpc", "wait_for_completion_killable nfs_file_direct_read nfs_file_read vfs_read"),
    ("client", "lock", "down_write nfs_start_io_direct nfs_file_direct_write nfs_file_write"),
    ("client", "lock", "__schedule schedule d_alloc_parallel __lookup_slow walk_component"),
    (
        "client",
        "delay",
        "__schedule schedule schedule_timeout nfs4_delay nfs4_handle_exception nfs4_proc_open",
    ),
    ("client", "delay", "__schedule schedule schedule_timeout nfs4_handle_exception nfs4_proc_x"),
    (
        "client",
        "grace",
        "__schedule schedule schedule_timeout nlmclnt_call nlmclnt_lock nlmclnt_proc",
    ),
    ("client", "rpc", "__schedule schedule rpc_wait_bit_killable __wait_on_bit nlmclnt_call"),
    ("client", "lock", "__schedule schedule_timeout nfs4_retry_setlk nfs4_proc_lock do_setlk"),
    (
        "client",
        "lock",
        "__schedule schedule schedule_timeout wait_woken nfs4_proc_lock do_setlk nfs_lock",
    ),
    (
        "client",
        "rpc",
        "schedule rpc_wait_bit_killable _nfs4_do_setlk nfs4_proc_setlk nfs4_proc_lock",
    ),
    (
        "client",
        "fanotify",
        "__schedule schedule fanotify_handle_event fsnotify security_file_open do_dentry_open "
        "path_openat do_filp_open",
    ),
]


@pytest.mark.parametrize(("side", "wait_class", "stack"), STACKS)
def test_stack_is_classified(side, wait_class, stack):
    assert classify(tuple(stack.split()), side) == wait_class


def test_every_class_is_a_cause_or_internal():
    assert {row.wait_class for row in SIGNATURES} <= {*CAUSE_NAMES, "rpc", "idle"}


def test_every_cause_is_documented():
    assert tuple(ABOUT) == CAUSE_NAMES
    assert all(about.means and about.found_by and about.misses for about in ABOUT.values())


def test_a_waker_in_an_interrupt_is_no_evidence():
    stack = ("try_to_wake_up", "mutex_unlock", "__do_softirq", "asm_sysvec_apic_timer_interrupt")
    assert in_interrupt(stack)
    assert not releases("lock", stack)
    assert not answers_fanotify(("fanotify_write", "common_interrupt"))


def test_a_waker_releasing_is_evidence_for_its_cause_only():
    stack = ("try_to_wake_up", "wake_up_q", "rwsem_wake.isra.0", "up_write", "vfs_rename")
    assert releases("lock", stack)
    assert not releases("frozen", stack)
    assert not releases("disk", stack)
    assert not releases("lock", ("try_to_wake_up", "kick_pool"))


@pytest.mark.parametrize(
    "stack",
    [
        # As seen on 6.1: up_write() is inlined into whoever gives the inode's lock up.
        "try_to_wake_up wake_up_q rwsem_wake ext4_fallocate vfs_fallocate __x64_sys_fallocate",
        "try_to_wake_up wake_up_q rwsem_wake do_renameat2 __x64_sys_rename do_syscall_64",
    ],
)
def test_a_folders_or_files_lock_is_given_up(stack):
    assert releases("lock", tuple(stack.split()))
