"""What a kernel thread works for, by its name or by what it was seen doing.

A kworker's name says nothing: it does the work of whoever queues some. Its stack
at the time does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from tracer.blame.signatures import bare

_NAMES: Final = (
    (r"nfsd", "requests of NFS clients"),
    (r"lockd", "file locks of NFSv3"),
    (r"rpciod", "RPCs of NFS clients on this host"),
    (r"xprtiod", "connections of NFS clients on this host"),
    (r"nfsiod", "background work of the NFS client"),
    (r"NFSv4 callback|nfsv4\.\d-svc|nfsv4-svc", "calls of NFS servers to this client"),
    (r".*-manager", "recovery of NFSv4 state"),
    (r"jbd2/(.+)-\d+", "the ext4 journal of {}"),
    (r"jbd2/.*", "an ext4 journal"),
    (r"xfsaild/.*", "an XFS journal"),
    (r"btrfs-transacti(?:on)?", "commits of btrfs"),
    (r"loop(\d+)", "the loop device loop{}"),
    (r"md(\d+)_(?:raid|resync|recovery).*", "the RAID array md{}"),
    (r"dmcrypt_write.*", "encrypted disks"),
    (r"kswapd\d+", "reclaim of memory"),
    (r"kcompactd\d+", "compaction of memory"),
    (r"khugepaged", "huge pages"),
    (r"oom_reaper", "memory of killed processes"),
    (r"ksoftirqd/\d+", "interrupts: network, timers"),
    (r"migration/\d+", "balancing of CPUs"),
    (r"kauditd", "the audit log"),
)
# Functions of a worker's stack, the most telling first.
_WORK: Final = (
    (("nfs_writepages", "nfs_write_inode", "nfs_commit_inode"), "writeback to an NFS server"),
    (("nfsd4_cb_", "nfsd4_run_cb_work"), "calls of this NFS server to its clients"),
    (("laundromat_main", "nfsd_file_"), "housekeeping of the NFS server"),
    (("nfs4_",), "background work of the NFS client"),
    (("rpc_async_schedule", "__rpc_execute"), "RPCs of NFS clients on this host"),
    (("xs_", "xprt_"), "connections of NFS clients on this host"),
    (("wb_workfn", "writeback_sb_inodes"), "writeback of dirty pages"),
    (("loop_workfn", "loop_rootcg_workfn"), "loop devices"),
    (("blk_mq_",), "requests of disks"),
)


def works_for(name: str, stacks: Iterable[tuple[str, ...]] = ()) -> str | None:
    """Return what a kernel thread works for, None if unknown.

    ``stacks``: what it was seen doing, innermost function first.
    """
    if not name.startswith("kworker/"):
        for pattern, text in _NAMES:
            found = re.fullmatch(pattern, name)
            if found:
                return text.format(*found.groups())
        return None
    works = {_work(stack) for stack in stacks}
    return works.pop() if len(works) == 1 else None


def _work(stack: tuple[str, ...]) -> str | None:
    frames = [bare(frame) for frame in stack]
    for functions, text in _WORK:
        if any(frame.startswith(functions) for frame in frames):
            return text
    return None
