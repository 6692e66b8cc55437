"""Programs that are compiled once and filled in for each function that they trace.

Functions differ in the call's number and in which argument tells the filesystem; clang would
need seconds for a program of each.
"""

from __future__ import annotations

import struct
from functools import cache
from typing import Final, NamedTuple

_KINDS: Final = (
    "SB_OF_INODE",
    "SB_OF_FILE",
    "SB_OF_KIOCB",
    "SB_OF_DENTRY",
    "SB_OF_PATH",
    "SB_OF_VMA",
    "SB_OF_FAULT",
    "SB_OF_MAPPING",
    "SB_OF_READAHEAD",
)
# Which argument leads to the superblock, as sb_of() of bpf/kernel.h has it; 0 is none.
KINDS: Final = {kind: number for number, kind in enumerate(_KINDS, 1)}

# Stand in the compiled templates for the number of the call, and for the kind of the argument
# that leads to the superblock. What clang computed from them would stay as it is: hash_of() of
# bpf/op.h and sb_of() keep it from doing so.
NUMBER_PLACEHOLDER: Final = 0x7F5EED01
KIND_PLACEHOLDER: Final = 0x7F5EED02
_NUMBER: Final = f"{NUMBER_PLACEHOLDER:#x}"
# For the positions in the context of that argument and of the result. No function has so many:
# left in place by mistake, the verifier refuses them.
ARGUMENT_PLACEHOLDER: Final = 3989
RESULT_PLACEHOLDER: Final = 4013
_SB: Final = f"sb_of({KIND_PLACEHOLDER:#x}, ctx[{ARGUMENT_PLACEHOLDER}])"
_RESULT: Final = f"&ctx[{RESULT_PLACEHOLDER}]"
_SLOT_BYTES: Final = 8
_VALUES: Final = {NUMBER_PLACEHOLDER: "number", KIND_PLACEHOLDER: "kind"}
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
    """What makes a template a function's program: the call, its argument, where its result is."""

    number: int
    kind: int
    argument: int
    result: int


class Template(NamedTuple):
    """A program that lacks its Filling."""

    name: str
    code: str

    @property
    def source(self) -> str:
        """The function in C."""
        return f"int {self.name}(unsigned long long *ctx)\n{{\n\t{self.code};\n\treturn 0;\n}}\n"


class Pair(NamedTuple):
    """The templates of an entry program and of the exit program that belongs to it."""

    enter: Template
    exit: Template


_IF_NFS: Final = f"u64 sb = {_SB};\n\n\tif (is_nfs(sb))\n\t\t"
_IF_NO_HOOK_IN_OP: Final = f"if (!hook_in_op_enter({_NUMBER}))\n\t\t"
_IF_NO_CALL_IN_OP: Final = f"u64 sb = {_SB};\n\n\tif (!call_in_op_enter({_NUMBER}, sb))\n\t\t"
_CALL_EXIT: Final = Template("call_exit", f"call_end({_NUMBER})")

# A client's call; the same where its function serves all filesystems.
NFS: Final = Pair(
    Template("vfs_enter_nfs", f"vfs_enter({_NUMBER}, dev_of({_SB}))"),
    Template("vfs_exit_nfs", f"vfs_exit({_NUMBER}, LAYER_VFS, {_RESULT})"),
)
ANY: Final = Pair(
    Template("vfs_enter_any", f"{_IF_NFS}vfs_enter({_NUMBER}, dev_of(sb))"),
    Template("vfs_exit_any", f"{_IF_NFS}vfs_exit({_NUMBER}, LAYER_VFS, {_RESULT})"),
)
# A hook in an operation or on its own; in an operation only.
HOOK: Final = Pair(
    Template("hook_enter_any", f"{_IF_NO_HOOK_IN_OP}hook_op_enter({_NUMBER}, {_SB})"),
    Template("hook_exit_any", f"hook_or_op_exit({_NUMBER}, {_RESULT})"),
)
HOOK_IN_OP: Final = Pair(
    Template("hook_enter_in_op", f"hook_in_op_enter({_NUMBER})"),
    Template("hook_exit_in_op", f"hook_in_op_exit({_NUMBER})"),
)
# By nfsd or a process of the server; by nfsd only, which tells the operation's filesystem or not.
LOCAL: Final = Pair(
    Template("call_enter_any", f"{_IF_NO_CALL_IN_OP}local_call_enter({_NUMBER}, sb)"), _CALL_EXIT
)
IN_OP_ON_SB: Final = Pair(
    Template(
        "call_enter_in_op_on_sb",
        # Else it costs a look-up only.
        f"if (lacks_dev())\n\t\tnote_dev_of_op({_SB});\n\tcall_in_op_enter({_NUMBER}, 0)",
    ),
    _CALL_EXIT,
)
IN_OP: Final = Pair(Template("call_enter_in_op", f"call_in_op_enter({_NUMBER}, 0)"), _CALL_EXIT)


def specialise(code: bytes, filling: Filling) -> bytes:
    """Return a template's instructions with all that differs by function in place."""
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
        if constant in _VALUES:
            holes.append(_Hole(at + 4, _CONSTANT, _VALUES[constant]))
        elif opcode & _CLASS == _LDX and offset in _PLACES:
            holes.append(_Hole(at + 2, _OFFSET, _PLACES[offset], _SLOT_BYTES))
        elif opcode == _ADD_CONSTANT and constant in _PLACES:
            holes.append(_Hole(at + 4, _CONSTANT, _PLACES[constant], _SLOT_BYTES))
    assert holes, "template without a placeholder"
    return tuple(holes)
