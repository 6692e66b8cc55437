"""Timed calls: the functions behind them and the templates of their programs."""

from __future__ import annotations

import struct

import pytest

from tracer import calls
from tracer.kernel import functions

READ = functions.Call("read", "client", "nfs", ("nfs_file_read",))
LOCAL = functions.Call("read", "local", "vmlinux", ("vfs_read",))
NFSD = functions.Call("read", "server", "vmlinux", ("vfs_iter_read",))
HOOK = functions.Call("security_file_open", "hook", "vmlinux", ("security_file_open",))


def only(
    call: functions.Call, types: tuple[str, ...], sides: tuple[str, ...] = ("client",)
) -> functions.Traced:
    (found,), missing = functions.traced([call], sides, lambda *_: types)
    assert not missing
    return found


@pytest.mark.parametrize(
    ("arguments", "enter", "argument", "result"),
    [
        (("kiocb", "iov_iter"), "vfs_enter_kiocb", 0, 2),
        (("inode", "file"), "vfs_enter_inode", 0, 2),
        # A file is filled in late by an open: the inode is surer.
        (("file", "inode"), "vfs_enter_inode", 1, 2),
        # An idmap in front, since v5.12, moves the rest.
        (("mnt_idmap", "inode", "dentry", "", ""), "vfs_enter_inode", 1, 5),
        (("mnt_idmap", "path", "kstat", "", ""), "vfs_enter_path", 1, 5),
        (("file", ""), "vfs_enter_file", 0, 2),
    ],
)
def test_the_surest_argument_leads_to_the_superblock(
    arguments: tuple[str, ...], enter: str, argument: int, result: int
) -> None:
    found = only(READ, arguments)
    assert (found.enter, found.exit) == (enter, "vfs_exit_nfs")
    # fexit finds the return value behind the arguments.
    assert found.filling == (READ.number, argument, result)
    enter_source, exit_source = found.sources
    assert f"int {enter}(unsigned long long *ctx)" in enter_source
    kind = enter.removeprefix("vfs_enter_")
    assert f"sb_of_{kind}(ctx[{functions.ARGUMENT_PLACEHOLDER}])" in enter_source
    assert f"&ctx[{functions.RESULT_PLACEHOLDER}])" in exit_source


@pytest.mark.parametrize("arguments", [(), ("",), ("kstat", "iov_iter")])
def test_a_client_call_whose_mount_cannot_be_told_is_missing(arguments: tuple[str, ...]) -> None:
    assert functions.traced([READ], ["client"], lambda *_: arguments) == ([], [READ])


@pytest.mark.parametrize(
    ("call", "types", "sides", "enter", "exit_"),
    [
        (LOCAL, ("file", ""), ("server",), "call_enter_file", "call_exit"),
        (LOCAL, ("renamedata",), ("server",), "call_enter_in_op", "call_exit"),
        (NFSD, ("file", ""), ("server",), "call_enter_in_op_file", "call_exit"),
        (NFSD, ("",), ("server",), "call_enter_in_op", "call_exit"),
        # A server's hooks count inside operations only, whatever they are given.
        (HOOK, ("file",), ("server",), "hook_enter_in_op", "hook_exit_in_op"),
        (HOOK, ("file",), ("server", "client"), "hook_enter_file", "hook_exit_or_op"),
        (HOOK, ("socket", ""), ("client",), "hook_enter_in_op", "hook_exit_in_op"),
    ],
)
def test_how_a_call_is_traced_depends_on_who_makes_it(
    call: functions.Call,
    types: tuple[str, ...],
    sides: tuple[str, ...],
    enter: str,
    exit_: str,
) -> None:
    found = only(call, types, sides)
    assert (found.enter, found.exit) == (enter, exit_)


def test_a_function_is_traced_once_though_two_calls_name_it() -> None:
    splice = functions.Call("splice_read", "client", "nfs", ("nfs_file_read",))
    found, missing = functions.traced([READ, splice], ["client"], lambda *_: ("kiocb",))
    assert ([one.call for one in found], missing) == ([READ], [])


def test_every_call_has_a_number_of_its_own_and_a_name() -> None:
    for call in functions.wanted(("server", "client")):
        assert calls.name(call.number) == call.name
    assert all(len(set(names)) == len(names) for names in (calls.VFS_OPS, calls.HOOKS))
    assert len(calls.VFS_OPS) <= calls.RPC_NULL < calls.HOOKS_FROM
    # 0 is what a zeroed record says; an address is no number of a call.
    assert [calls.name(number) for number in (0, calls.RPC_NULL - 1, 1 << 40)] == [None] * 3


def test_a_stack_names_the_call_it_is_in() -> None:
    assert functions.CLIENT_FRAMES["nfs_file_read"] == "read"
    assert functions.CLIENT_FRAMES["nfs_file_splice_read"] == "splice_read"


def instruction(opcode: int, offset: int, constant: int) -> bytes:
    return struct.pack("<BBhI", opcode, 1, offset, constant)


NUMBER = functions.NUMBER_PLACEHOLDER
ARGUMENT, RESULT = 8 * functions.ARGUMENT_PLACEHOLDER, 8 * functions.RESULT_PLACEHOLDER
LOAD, STORE, ADD, MOVE, JUMP, END = 0x79, 0x7B, 0x07, 0xB7, 0x55, 0x95


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ((MOVE, 0, NUMBER), (MOVE, 0, 12)),
        ((JUMP, 3, NUMBER), (JUMP, 3, 12)),
        ((LOAD, ARGUMENT, 0), (LOAD, 8, 0)),
        ((LOAD, RESULT, 0), (LOAD, 40, 0)),
        # An address in the context that is passed on.
        ((ADD, 0, RESULT), (ADD, 0, 40)),
    ],
)
def test_specialise_fills_every_placeholder_and_nothing_else(
    before: tuple[int, int, int], after: tuple[int, int, int]
) -> None:
    # The same values where they are no placeholder's.
    rest = [(MOVE, 0, 7), (MOVE, 0, ARGUMENT), (STORE, ARGUMENT, 0), (JUMP, RESULT, 0), (END, 0, 0)]
    code = b"".join(instruction(*each) for each in (before, *rest, before))
    filled = b"".join(instruction(*each) for each in (after, *rest, after))
    assert functions.specialise(code, functions.Filling(12, 1, 5)) == filled


def test_placeholder_bytes_across_two_instructions_are_not_one() -> None:
    placeholder = NUMBER.to_bytes(4, "little")
    code = (
        b"\xb7\x01\0\0" + placeholder  # a real one
        + b"\xb7\x01" + placeholder + b"\0\0"  # the same bytes, but not a constant
    )  # fmt: skip
    filled = code.replace(placeholder, b"\3\0\0\0", 1)
    assert functions.specialise(code, functions.Filling(3, 0, 0)) == filled


def test_a_template_without_placeholder_is_a_mistake() -> None:
    with pytest.raises(AssertionError):
        functions.specialise(instruction(END, 0, 0), functions.Filling(1, 0, 0))
