"""A client's calls where the modules of NFS have no types."""

from __future__ import annotations

import pytest

from tracer.kernel import functions, templates
from tracer.kernel.standins import STAND_INS, client_calls


def test_stand_ins_are_for_kernels_whose_modules_have_no_types() -> None:
    assert client_calls(frozenset({"vmlinux", "sunrpc", "nfs"})) is functions.CLIENT
    # nfs and nfsv4 may not be loaded: their calls are then told to be missing.
    assert client_calls(frozenset({"vmlinux", "sunrpc"})) is functions.CLIENT
    assert client_calls(frozenset({"vmlinux"})) is STAND_INS


def test_they_serve_calls_that_are_known_by_the_same_names() -> None:
    assert {call.name for call in STAND_INS} <= {call.name for call in functions.CLIENT}


@pytest.mark.parametrize("call", [call for call in STAND_INS if not call.event])
def test_a_caller_serves_any_filesystem_and_looks_for_nfs_at_both_ends(
    call: functions.Call,
) -> None:
    (found,), _ = functions.traced([call], ["client"], lambda *_: ("file", "", ""))
    assert [one.name for one in found.pair] == ["vfs_enter_any", "vfs_exit_any"]
    assert (found.filling.argument, found.filling.result) == (0, 3)
    assert found.filling.kind == templates.KINDS["SB_OF_FILE"]
    assert all("if (is_nfs(sb))" in one.source for one in found.pair)


@pytest.mark.parametrize("call", [call for call in STAND_INS if call.event])
def test_an_event_brings_its_arguments_and_its_error_stands_behind_them(
    call: functions.Call,
) -> None:
    (found,), _ = functions.traced([call], ["client"], lambda *_: None)
    assert [one.name for one in found.pair] == ["vfs_enter_nfs", "vfs_exit_nfs"]
    inode = templates.KINDS["SB_OF_INODE"]
    assert found.filling == (call.number, inode, 0, len(call.event))
