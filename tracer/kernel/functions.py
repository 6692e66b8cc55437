"""The functions of the kernel behind timed calls, and the templates of their programs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, Literal, NamedTuple

from tracer import calls
from tracer.kernel import templates

Arguments = Callable[[str, str], Sequence[str] | None]
"""(module, function) -> for each argument the struct it points to; None: no such function."""


class Call(NamedTuple):
    """A call, the functions that serve it, and how it is traced.

    ``client``: a process's call on an NFS mount. ``server``: by nfsd for a client.
    ``local``: the same function called by nfsd or by a process on an exported filesystem.
    ``hook``: a security hook in any of them. With ``event`` the function is seen by its
    trace events FUNCTION_enter and FUNCTION_exit, the latter's argument types but its error.
    """

    name: str
    how: Literal["client", "server", "local", "hook"]
    module: str
    functions: tuple[str, ...]
    event: tuple[str, ...] = ()

    @property
    def number(self) -> int:
        """The number that stands for the call in records."""
        return calls.hook_number(self.name) if self.how == "hook" else calls.vfs_number(self.name)


def _client(op: str, *functions: str, module: str = "nfs") -> Call:
    return Call(op, "client", module, functions)


def _nfsd(op: str, *functions: str) -> Call:
    return Call(op, "server", "vmlinux", functions)


def _local(op: str, *functions: str) -> Call:
    return Call(op, "local", "vmlinux", functions)


CLIENT: Final = (
    _client("read", "nfs_file_read"),
    # A function of its own since a7db5034ffb3 (v6.5); nfs_file_read before.
    _client("splice_read", "nfs_file_splice_read", "nfs_file_read"),
    _client("write", "nfs_file_write"),
    _client("fsync", "nfs_file_fsync"),
    _client("open", "nfs_file_open", "nfs_atomic_open"),
    _client("open", "nfs4_file_open", module="nfsv4"),
    _client("flush", "nfs_file_flush"),
    _client("flush", "nfs4_file_flush", module="nfsv4"),
    _client("release", "nfs_file_release"),
    _client("llseek", "nfs_file_llseek"),
    _client("mmap", "nfs_file_mmap", "nfs_file_mmap_prepare"),
    _client("page_mkwrite", "nfs_vm_page_mkwrite"),
    # For a mapped file, and ahead of a read; a read itself holds them.
    _client("readahead", "nfs_readahead", "nfs_readpages", "nfs_read_folio", "nfs_readpage"),
    _client("lock", "nfs_lock", "nfs_flock"),
    _client("getattr", "nfs_getattr"),
    _client("setattr", "nfs_setattr"),
    _client("access", "nfs_permission"),
    _client("statfs", "nfs_statfs"),
    _client("lookup", "nfs_lookup"),
    _client("revalidate", "nfs_lookup_revalidate", "nfs4_lookup_revalidate"),
    _client("readdir", "nfs_readdir"),
    _client("readlink", "nfs_get_link"),
    _client("create", "nfs_create"),
    _client("mknod", "nfs_mknod"),
    _client("link", "nfs_link"),
    _client("symlink", "nfs_symlink"),
    _client("unlink", "nfs_unlink"),
    _client("rename", "nfs_rename"),
    _client("mkdir", "nfs_mkdir"),
    _client("rmdir", "nfs_rmdir"),
    _client("fallocate", "nfs42_fallocate", module="nfsv4"),
    _client("copy_file_range", "nfs4_copy_file_range", module="nfsv4"),
    _client("clone", "nfs42_remap_file_range", module="nfsv4"),
)

SERVER: Final = (
    # nfsd has its own ways to read and write: vfs_iocb_iter_* in newer kernels.
    _nfsd("read", "vfs_iter_read", "vfs_iocb_iter_read"),
    _nfsd("splice_read", "splice_direct_to_actor"),
    _nfsd("write", "vfs_iter_write", "vfs_iocb_iter_write"),
    _nfsd("lookup", "lookup_one_len", "lookup_one_len_unlocked", "lookup_one", "lookup_noperm"),
    _local("read", "vfs_read"),
    _local("write", "vfs_write"),
    _local("open", "vfs_open"),
    _local("fsync", "vfs_fsync_range"),
    _local("getattr", "vfs_getattr"),
    _local("setattr", "notify_change"),
    _local("readdir", "iterate_dir"),
    _local("statfs", "vfs_statfs"),
    _local("create", "vfs_create"),
    _local("mknod", "vfs_mknod"),
    _local("mkdir", "vfs_mkdir"),
    _local("rmdir", "vfs_rmdir"),
    _local("symlink", "vfs_symlink"),
    _local("link", "vfs_link"),
    _local("unlink", "vfs_unlink"),
    _local("rename", "vfs_rename"),
    _local("readlink", "vfs_get_link"),
    _local("fallocate", "vfs_fallocate"),
    _local("copy_file_range", "vfs_copy_file_range"),
    _local("clone", "vfs_clone_file_range"),
    _local("lock", "vfs_lock_file"),
    _local("getxattr", "vfs_getxattr"),
    _local("setxattr", "vfs_setxattr"),
    _local("listxattr", "vfs_listxattr"),
    _local("removexattr", "vfs_removexattr"),
)

HOOKS: Final = tuple(Call(hook, "hook", "vmlinux", (hook,)) for hook in calls.HOOKS)

# What stands on the stack of a client's call, and the call's name.
CLIENT_FRAMES: Final = {
    function: call.name
    for call in reversed(CLIENT)
    for function in call.functions
    if call.name != "splice_read" or function == "nfs_file_splice_read"
}

# Arguments that lead to the superblock, the surest first: a struct file is filled in
# late by an open.
_SOURCES: Final = {
    "kiocb": "SB_OF_KIOCB",
    "inode": "SB_OF_INODE",
    "dentry": "SB_OF_DENTRY",
    "path": "SB_OF_PATH",
    "file": "SB_OF_FILE",
    "vm_area_struct": "SB_OF_VMA",
    "vm_fault": "SB_OF_FAULT",
    "address_space": "SB_OF_MAPPING",
    "readahead_control": "SB_OF_READAHEAD",
}


class Traced(NamedTuple):
    """A function that is there, and its programs."""

    call: Call
    function: str
    pair: templates.Pair
    filling: templates.Filling


def wanted(sides: Sequence[str], client: tuple[Call, ...] = CLIENT) -> tuple[Call, ...]:
    """Return the calls that are traced on these sides; ``client`` are a client's."""
    return (client if "client" in sides else ()) + (SERVER if "server" in sides else ()) + HOOKS


def traced(
    wanted: Iterable[Call], sides: Sequence[str], arguments: Arguments
) -> tuple[list[Traced], list[Call]]:
    """Return the functions to trace, and the calls for which this kernel has none.

    A hook that a kernel does not have is not missing: nothing can wait in it.
    """
    found: list[Traced] = []
    missing: list[Call] = []
    listed: set[str] = set()
    for call in wanted:
        there = {
            name: types
            for name in call.functions
            if (types := call.event or arguments(call.module, name))
            and (call.how != "client" or source(types)[0])
        }
        new = {name: types for name, types in there.items() if name not in listed}
        listed.update(new)
        found += [_traced(call, name, types, sides) for name, types in new.items()]
        if not there and call.how != "hook":
            missing.append(call)
    return found, missing


def _traced(call: Call, function: str, types: Sequence[str], sides: Sequence[str]) -> Traced:
    kind, position = source(types)
    pair = _pair(call, bool(kind), "client" in sides)
    filling = templates.Filling(call.number, kind, position, len(types))
    return Traced(call, function, pair, filling)


def _pair(call: Call, has_sb: bool, has_client: bool) -> templates.Pair:
    """Return the templates of a call, whose function may be given what leads to a superblock."""
    if call.how == "client":
        return templates.ANY if call.module == "vmlinux" else templates.NFS
    if call.how == "hook":
        return templates.HOOK if has_sb and has_client else templates.HOOK_IN_OP
    if not has_sb:
        return templates.IN_OP
    return templates.LOCAL if call.how == "local" else templates.IN_OP_ON_SB


def source(types: Sequence[str]) -> tuple[int, int]:
    """Return what kind of an argument leads to the superblock, and its position.

    (0, 0) if none leads to a superblock. An argument's position differs by kernel (a
    mount's idmap came in front with 549c7297717c, v5.12), its type does not.
    """
    for type_, kind in _SOURCES.items():
        if type_ in types:
            return templates.KINDS[kind], types.index(type_)
    return 0, 0
