"""The functions of the kernel behind timed calls, and the programs that trace each.

A program is made from a template by putting in the call's number and where its context
has what the template reads: clang needs seconds for a program per function.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import Final, Literal, NamedTuple

from tracer import calls

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
    "kiocb": "kiocb",
    "inode": "inode",
    "dentry": "dentry",
    "path": "path",
    "file": "file",
    "vm_area_struct": "vma",
    "vm_fault": "fault",
    "address_space": "mapping",
    "readahead_control": "readahead",
}

# Stands for the number of the call in the compiled templates. What clang computed from it would
# stay as it is: hash_of() of bpf/op.h keeps it from doing so.
NUMBER_PLACEHOLDER: Final = 0x7F5EED01
_NUMBER: Final = f"{NUMBER_PLACEHOLDER:#x}"
# Stand for the positions in the context of the argument that leads to the superblock and of the
# result. No function has so many arguments: left in place by mistake, the verifier refuses them.
ARGUMENT_PLACEHOLDER: Final = 3989
RESULT_PLACEHOLDER: Final = 4013
_ARGUMENT: Final = f"ctx[{ARGUMENT_PLACEHOLDER}]"
_RESULT: Final = f"&ctx[{RESULT_PLACEHOLDER}]"
_SLOT_BYTES: Final = 8
_PLACES: Final = {
    ARGUMENT_PLACEHOLDER * _SLOT_BYTES: "argument",
    RESULT_PLACEHOLDER * _SLOT_BYTES: "result",
}
# struct bpf_insn of linux/bpf.h: opcode, registers, offset, constant.
_INSTRUCTION: Final = struct.Struct("<BBhI")
_OFFSET: Final = struct.Struct("<h")
_CONSTANT: Final = struct.Struct("<I")
_CLASS, _LDX, _ADD_CONSTANT = 0x07, 0x01, 0x07


class Filling(NamedTuple):
    """What makes a template a function's program: the call, positions in the context."""

    number: int
    argument: int
    result: int


class Traced(NamedTuple):
    """A function that is there, and the templates of its entry and its exit program."""

    call: Call
    function: str
    enter: str
    exit: str
    sources: tuple[str, str]
    filling: Filling


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
    """Return the function with its templates, which depend on the kind of its argument."""
    kind, position = source(types)
    sb = f"sb_of_{kind}({_ARGUMENT})"
    timed = f"vfs_enter({_NUMBER}, dev_of({sb}))", f"vfs_exit({_NUMBER}, LAYER_VFS, {_RESULT})"
    if call.how == "client" and call.module == "vmlinux":
        only_nfs = f"if (is_nfs({sb}))\n\t\t"
        enter = f"any_enter_{kind}", only_nfs + timed[0]
        exit_ = f"any_exit_{kind}", only_nfs + timed[1]
    elif call.how == "client":
        enter = f"vfs_enter_{kind}", timed[0]
        exit_ = "vfs_exit_nfs", timed[1]
    elif call.how == "hook" and kind and "client" in sides:
        in_op = f"if (!hook_in_op_enter({_NUMBER}))\n\t\t"
        enter = f"hook_enter_{kind}", in_op + f"hook_op_enter({_NUMBER}, {sb})"
        exit_ = "hook_exit_or_op", f"hook_or_op_exit({_NUMBER}, {_RESULT})"
    elif call.how == "hook":
        enter = "hook_enter_in_op", f"hook_in_op_enter({_NUMBER})"
        exit_ = "hook_exit_in_op", f"hook_in_op_exit({_NUMBER})"
    elif call.how == "local" and kind:
        in_op = f"if (!call_in_op_enter({_NUMBER}, {sb}))\n\t\t"
        enter = f"call_enter_{kind}", in_op + f"local_call_enter({_NUMBER}, {sb})"
        exit_ = "call_exit", f"call_end({_NUMBER})"
    elif kind:
        # Else it costs a look-up only.
        noted = f"if (lacks_dev())\n\t\tnote_dev_of_op({sb})"
        enter = f"call_enter_in_op_{kind}", f"{noted};\n\tcall_in_op_enter({_NUMBER}, 0)"
        exit_ = "call_exit", f"call_end({_NUMBER})"
    else:
        enter = "call_enter_in_op", f"call_in_op_enter({_NUMBER}, 0)"
        exit_ = "call_exit", f"call_end({_NUMBER})"
    sources = _program(*enter), _program(*exit_)
    filling = Filling(call.number, position, len(types))
    return Traced(call, function, enter[0], exit_[0], sources, filling)


def source(types: Sequence[str]) -> tuple[str, int]:
    """Return which of ``sb_of_*`` takes an argument of these types, and its position.

    ("", 0) if none leads to a superblock. An argument's position differs by kernel (a
    mount's idmap came in front with 549c7297717c, v5.12), its type does not.
    """
    for type_, kind in _SOURCES.items():
        if type_ in types:
            return kind, types.index(type_)
    return "", 0


def _program(name: str, call: str) -> str:
    return f"int {name}(unsigned long long *ctx)\n{{\n\t{call};\n\treturn 0;\n}}\n"


def specialise(code: bytes, filling: Filling) -> bytes:
    """Return a template's instructions with the call's number and its positions in place."""
    specialised = bytearray(code)
    for hole in _holes(code):
        value = getattr(filling, hole.wants)
        hole.form.pack_into(specialised, hole.at, value * hole.unit)
    return bytes(specialised)


class _Hole(NamedTuple):
    """Where a template wants one of Filling, and how: bytes ``at``, in multiples of ``unit``."""

    at: int
    form: struct.Struct
    wants: str
    unit: int = 1


@cache
def _holes(code: bytes) -> tuple[_Hole, ...]:
    """Return where placeholders stand: as a number, in a load's offset, in an address's sum."""
    holes = []
    for index, (opcode, _, offset, constant) in enumerate(_INSTRUCTION.iter_unpack(code)):
        at = index * _INSTRUCTION.size
        if constant == NUMBER_PLACEHOLDER:
            holes.append(_Hole(at + 4, _CONSTANT, "number"))
        elif opcode & _CLASS == _LDX and offset in _PLACES:
            holes.append(_Hole(at + 2, _OFFSET, _PLACES[offset], _SLOT_BYTES))
        elif opcode == _ADD_CONSTANT and constant in _PLACES:
            holes.append(_Hole(at + 4, _CONSTANT, _PLACES[constant], _SLOT_BYTES))
    assert holes, "template without a placeholder"
    return tuple(holes)
