"""How a client's calls are traced where the modules of NFS have no BTF (before 5.11).

fentry needs a function's type, raw tracepoints need none: so trace events inside the
functions, or else the callers of the functions, which vmlinux knows. What a caller does
besides, permission events above all, is then in the call. On a host that is a server,
too, such a call is the client's and no local one.
"""

from __future__ import annotations

from typing import Final

from tracer.kernel.functions import CLIENT, Call


def _event(op: str, name: str, *arguments: str) -> Call:
    """Return a call seen by trace events NAME_enter and NAME_exit.

    ``arguments`` are those of the latter up to its error, with which it ends.
    """
    return Call(op, "client", "nfs", (name,), arguments)


def _caller(op: str, function: str) -> Call:
    return Call(op, "client", "vmlinux", (function,))


STAND_INS: Final = (
    _caller("read", "vfs_read"),
    _caller("write", "vfs_write"),
    _event("fsync", "nfs_fsync", "inode"),
    _caller("open", "vfs_open"),
    # What opens a name that is not in the cache is inlined into its caller.
    _event("open", "nfs_atomic_open", "inode", "", ""),
    _caller("flush", "filp_close"),
    _event("getattr", "nfs_getattr", "inode"),
    _event("setattr", "nfs_setattr", "inode"),
    _event("access", "nfs_access", "inode", "", ""),
    _caller("statfs", "vfs_statfs"),
    _event("lookup", "nfs_lookup", "inode", "dentry", ""),
    _event("revalidate", "nfs_lookup_revalidate", "inode", "dentry", ""),
    _caller("readdir", "iterate_dir"),
    _event("create", "nfs_create", "inode", "dentry", ""),
    _event("mknod", "nfs_mknod", "inode", "dentry"),
    _event("link", "nfs_link", "inode", "inode", "dentry"),
    _event("symlink", "nfs_symlink", "inode", "dentry"),
    _event("unlink", "nfs_unlink", "inode", "dentry"),
    _event("rename", "nfs_rename", "inode", "dentry", "inode", "dentry"),
    _event("mkdir", "nfs_mkdir", "inode", "dentry"),
    _event("rmdir", "nfs_rmdir", "inode", "dentry"),
    # vfs_lock_file is inlined where fcntl comes to it.
    _caller("lock", "fcntl_setlk"),
    _caller("fallocate", "vfs_fallocate"),
    _caller("copy_file_range", "vfs_copy_file_range"),
)


def client_calls(modules: frozenset[str]) -> tuple[Call, ...]:
    """Return a client's calls to trace, given what has BTF: vmlinux, and modules or none."""
    return CLIENT if modules - {"vmlinux"} else STAND_INS
