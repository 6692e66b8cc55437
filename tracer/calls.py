"""Calls inside the kernel that are timed: the numbers used in BPF and their names in reports.

VFS calls have one name for all functions that serve them; a security hook has the name
of its function. Numbers are small, so they cannot be taken for the address of a name.
"""

from __future__ import annotations

from typing import Final

# Index = the number in records; BPF gets it from here. Append only.
VFS_OPS: Final = (
    "none",
    "read",
    "write",
    "fsync",
    "open",
    "getattr",
    "lookup",
    "readdir",
    "flush",
    "setattr",
    "create",
    "unlink",
    "rename",
    "mkdir",
    "rmdir",
    "permission",
    "splice_read",
    "mmap",
    "lock",
    "link",
    "symlink",
    "mknod",
    "readlink",
    "statfs",
    "fallocate",
    "copy_file_range",
    "clone",
    "getxattr",
    "setxattr",
    "listxattr",
    "removexattr",
    "access",
    "page_fault",
    "page_mkwrite",
    "llseek",
    "revalidate",
    "release",
    "readahead",
    "getacl",
    "setacl",
    # No calls: what kernel threads do for all operations.
    "softirq",
    "work",
    "packet",
    # Nor this: what a process does that others wait for.
    "answer",
    # A server's thread was to take up a request, and found none.
    "woken",
)

# Stands for the name of the RPC procedure 0, for which the kernel has none.
RPC_NULL: Final = 255

# The first number of a hook. Numbers are (HOOKS_FROM + index); append only.
HOOKS_FROM: Final = 256
HOOKS: Final = (
    "security_file_open",
    "security_file_permission",
    "security_inode_permission",
    "security_inode_create",
    "security_inode_link",
    "security_inode_unlink",
    "security_inode_symlink",
    "security_inode_mkdir",
    "security_inode_rmdir",
    "security_inode_mknod",
    "security_inode_rename",
    "security_inode_readlink",
    "security_inode_follow_link",
    "security_inode_getattr",
    "security_inode_setattr",
    "security_inode_getxattr",
    "security_inode_setxattr",
    "security_inode_listxattr",
    "security_inode_removexattr",
    "security_inode_init_security",
    "security_path_unlink",
    "security_path_mkdir",
    "security_path_rmdir",
    "security_path_mknod",
    "security_path_truncate",
    "security_path_symlink",
    "security_path_link",
    "security_path_rename",
    "security_path_chmod",
    "security_path_chown",
    "security_file_alloc",
    "security_file_lock",
    "security_file_truncate",
    "security_file_post_open",
    "security_mmap_file",
    "security_bprm_check",
    "security_d_instantiate",
    "security_socket_sendmsg",
    "security_socket_recvmsg",
)


def vfs_number(op: str) -> int:
    """Return the number of a VFS call. Raises ValueError for a name not in the list."""
    return VFS_OPS.index(op)


def hook_number(hook: str) -> int:
    """Return the number of a security hook. Raises ValueError for a name not in the list."""
    return HOOKS_FROM + HOOKS.index(hook)


def name(number: int) -> str | None:
    """Return the name of a call's number; None if it is no call's (an address, say)."""
    if number == RPC_NULL:
        return "NULL"
    for first, names in ((1, VFS_OPS[1:]), (HOOKS_FROM, HOOKS)):
        if first <= number < first + len(names):
            return names[number - first]
    return None
