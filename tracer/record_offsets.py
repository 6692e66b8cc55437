"""Offsets into packed records, for who only passes them on."""

from __future__ import annotations

import ctypes
import struct
from typing import Final

from tracer.records import OpRec, RpcRec, WaitRec

U64: Final = struct.Struct("<Q")
U32: Final = struct.Struct("<I")
S32: Final = struct.Struct("<i")


class At:
    """Taken from the records' ctypes twins."""

    op_name = OpRec.op.offset
    op_nfs = OpRec.nfs_op.offset
    op_longest = OpRec.nfs_longest.offset
    op_begin = OpRec.begin_ns.offset
    op_mark = OpRec.mark.offset
    op_arrival = OpRec.arrival_ns.offset
    op_active = OpRec.active.offset
    op_watched = OpRec.watched.offset
    op_taken = OpRec.taken.offset
    op_flags = OpRec.flags.offset
    op_proc = OpRec.proc.offset
    op_off = OpRec.off_ns.offset
    op_tid = OpRec.tid.offset
    op_group = OpRec.group.offset
    op_off_kind = OpRec.off_kind.offset
    op_off_stack = OpRec.off_stack.offset
    op_waking = OpRec.waking_ns.offset
    op_waker = OpRec.waker.offset
    op_waker_stack = OpRec.waker_stack.offset
    op_nwaits = OpRec.nwaits.offset
    op_waits = OpRec.waits.offset
    op_dentry = OpRec.dentry.offset
    op_name_parts = OpRec.name.offset
    op_identity = (
        slice(OpRec.op_id.offset, OpRec.op_id.offset + 8),
        slice(OpRec.dentry.offset, OpRec.dentry.offset + 8),
        slice(OpRec.active.offset, OpRec.active.offset + 1),
    )
    wait_size = ctypes.sizeof(WaitRec)
    wait_stack = WaitRec.stack.offset
    wait_waker = WaitRec.waker.offset
    wait_waker_stack = WaitRec.waker_stack.offset
    rpc_name = RpcRec.op.offset
    rpc_begin = RpcRec.begin_ns.offset
    rpc_identity = slice(RpcRec.op_id.offset, RpcRec.begin_ns.offset + 8)
    rpc_flags = RpcRec.flags.offset
    rpc_proc = RpcRec.proc.offset
    rpc_writer = RpcRec.writer.offset
