"""Timed calls: the functions behind them and the templates of their programs."""

from __future__ import annotations

import pytest

from tracer import calls
from tracer.kernel import functions, templates

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


def names(found: functions.Traced) -> tuple[str, ...]:
    return tuple(template.name for template in found.pair)


@pytest.mark.parametrize(
    ("arguments", "kind", "argument", "result"),
    [
        (("kiocb", "iov_iter"), "KIOCB", 0, 2),
        (("inode", "file"), "INODE", 0, 2),
        # A file is filled in late by an open: the inode is surer.
        (("file", "inode"), "INODE", 1, 2),
        # An idmap in front, since v5.12, moves the rest.
        (("mnt_idmap", "inode", "dentry", "", ""), "INODE", 1, 5),
        (("mnt_idmap", "path", "kstat", "", ""), "PATH", 1, 5),
        (("file", ""), "FILE", 0, 2),
    ],
)
def test_the_surest_argument_leads_to_the_superblock(
    arguments: tuple[str, ...], kind: str, argument: int, result: int
) -> None:
    found = only(READ, arguments)
    assert names(found) == ("vfs_enter_nfs", "vfs_exit_nfs")
    # fexit finds the return value behind the arguments.
    number = templates.KINDS[f"SB_OF_{kind}"]
    assert found.filling == (READ.number, number, argument, result)
    enter_source, exit_source = (template.source for template in found.pair)
    assert "int vfs_enter_nfs(unsigned long long *ctx)" in enter_source
    assert f"ctx[{templates.ARGUMENT_PLACEHOLDER}])" in enter_source
    assert f"&ctx[{templates.RESULT_PLACEHOLDER}])" in exit_source


@pytest.mark.parametrize("arguments", [(), ("",), ("kstat", "iov_iter")])
def test_a_client_call_whose_mount_cannot_be_told_is_missing(arguments: tuple[str, ...]) -> None:
    assert functions.traced([READ], ["client"], lambda *_: arguments) == ([], [READ])


@pytest.mark.parametrize(
    ("call", "types", "sides", "enter", "exit_"),
    [
        (LOCAL, ("file", ""), ("server",), "call_enter_any", "call_exit"),
        (LOCAL, ("renamedata",), ("server",), "call_enter_in_op", "call_exit"),
        (NFSD, ("file", ""), ("server",), "call_enter_in_op_on_sb", "call_exit"),
        (NFSD, ("",), ("server",), "call_enter_in_op", "call_exit"),
        # A server's hooks count inside operations only, whatever they are given.
        (HOOK, ("file",), ("server",), "hook_enter_in_op", "hook_exit_in_op"),
        (HOOK, ("file",), ("server", "client"), "hook_enter_any", "hook_exit_any"),
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
    assert names(found) == (enter, exit_)


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
