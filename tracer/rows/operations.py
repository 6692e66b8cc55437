"""Rows of ``operations`` and of the waits inside them, from the kernel's records.

Phases are differences of boundaries that were first rounded to microseconds, so
the phases of a row add up to its ``wall_us`` to the microsecond. A boundary that
lies before its predecessor (stamps come from several places in the kernel) is
moved up to it: no phase is ever negative.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tracer import calls
from tracer.procfs.mounts import Place
from tracer.records import (
    BETWEEN_REQUESTS,
    LAYERS,
    MAX_WAITS,
    NAME_PART_LEN,
    NO_STACK,
    OP_ANSWER,
    OP_AWAITS,
    OP_BEGIN_UNKNOWN,
    OP_DROPPED,
    OP_IN_FLIGHT,
    OP_KERNEL,
    SIDE_SERVER,
    SIDES,
    WAIT_KINDS,
    WAIT_RUNNABLE,
    WAIT_RUNNING,
    OpRec,
    ProcId,
    RpcRec,
    WaitRec,
)
from tracer.rows.text import address, decoded

Row = dict[str, Any]

UNKNOWN_OP = "unknown"
BLOCKED, RUNNABLE = WAIT_KINDS[1], WAIT_KINDS[2]
_SIGNED = 1 << 63


@dataclass(frozen=True, slots=True)
class Lookups:
    """What a record refers to by number, each looked up by one function."""

    name: Callable[[int], str | None]
    """Address of a string in the kernel -> the string."""
    stack: Callable[[int], int | None]
    """The kernel's stack id -> the capture's."""
    place: Callable[[int, int, int], Place]
    """(kernel's dev_t, pid, start_ns) -> mount point and volume."""
    device: Callable[[int], str | None]
    """Kernel's dev_t -> name of the block device."""
    disk: Callable[[int], str | None]
    """Kernel's dev_t -> name of the disk below it."""
    comm: Callable[[int, int], str | None]
    """(pid, start_ns) -> name of the process's main thread."""
    owner: Callable[[int], str | None]
    """Where foreign code begins -> whose it is."""


def op_name(op: int, look: Lookups) -> str | None:
    """Return an operation's name: a VFS call's number, or the address of an RPC's name."""
    return calls.name(op) or (look.name(op) if op else None)


def group_name(group: int) -> str | None:
    """Return a fanotify group's kernel address as it stands in captures; None for 0."""
    return f"{group:016x}" if group else None


def signed(value: int) -> int:
    """Return a u64 as the int64 with the same bits."""
    return value - 2 * _SIGNED if value >= _SIGNED else value


def file_name(parts: list[bytes]) -> str | None:
    """Return a path made of names from the file upwards; None if there is none.

    It begins with "/" where it reaches the root of the filesystem, else with ".../".
    """
    names = [part.partition(b"\0")[0] for part in parts]
    if b"" in names:
        names = names[: names.index(b"")]
    if not names:
        return None
    texts = [
        decoded(name) + ("..." if len(name) == NAME_PART_LEN - 1 else "")
        for name in reversed(names)
    ]
    return "/" + "/".join(texts[1:]) if texts[0] == "/" else ".../" + "/".join(texts)


def operation_row(rec: OpRec, now_ns: int, ts_us: int, look: Lookups) -> Row:
    """Return the row of an RPC served or a VFS call; ``now_ns`` ends one in flight."""
    in_flight = _in_flight(rec)
    end_ns = now_ns if in_flight else rec.end_ns
    end = end_ns // 1000
    begin = min((rec.arrival_ns or rec.begin_ns or end_ns) // 1000, end)
    row = _row(rec, in_flight, (begin, end), ts_us, look)
    row |= {
        "layer": _layer(rec),
        "nfs_op": _nfs_op(rec, in_flight, look),
        "waits_lost_us": rec.waits_lost_ns // 1000,
        "call": calls.name(rec.call) if in_flight and rec.call_ns else None,
        "hook": calls.name(rec.hook) if in_flight and rec.hook_ns else None,
    }
    if row["layer"] == LAYERS[1]:
        row |= {
            "device": look.device(rec.dev),
            "disk": look.disk(rec.dev),
            "file": file_name([bytes(part) for part in rec.name]),
            "inode": rec.ino or None,
            "nfs_status": None if in_flight else rec.nfs_status,
            "dropped": None if in_flight else bool(rec.flags & OP_DROPPED),
            "rtt_us": rec.rtt_us or None,
        }
        row |= _phases(
            begin,
            end,
            ("queue_us", rec.begin_ns),
            ("serve_us", rec.reply_ns),
            ("send_us", 0),
        )
        if not rec.arrival_ns:
            row["queue_us"] = None
    return row


def rpc_row(rec: RpcRec, now_ns: int, ts_us: int, look: Lookups) -> Row:
    """Return the row of a client's RPC; in flight, the phase it is in runs to ``now_ns``."""
    in_flight = _in_flight(rec)
    end_ns = now_ns if in_flight else rec.end_ns
    end = end_ns // 1000
    begin = min((rec.begin_ns or end_ns) // 1000, end)
    row = _row(rec, in_flight, (begin, end), ts_us, look)
    return row | {
        "side": SIDES[2],
        "layer": LAYERS[1],
        "parent_id": signed(rec.parent_id) or None,
        "transmits": rec.transmits,
        "status_before": rec.before or None,
        "writer_pid": rec.writer.tgid or None,
        "writer_start_us": rec.writer.start_ns // 1000 if rec.writer.tgid else None,
        **_phases(
            begin,
            end,
            ("slot_us", rec.reserved_ns),
            ("send_us", rec.sent_ns),
            ("remote_us", rec.reply_ns),
            ("wake_us", 0),
        ),
    }


def wait_rows(rec: OpRec, now_ns: int, ts_us: int, look: Lookups) -> list[Row]:
    """Return the rows of the waits inside one operation, the one going on last."""
    same = {
        "ts": ts_us,
        "op_id": signed(rec.op_id),
        "side": SIDES.get(rec.side, SIDES[SIDE_SERVER]),
        "op": op_name(rec.op, look),
        "tid": rec.tid or None,
    }
    rows = [
        same
        | waker(wait.waker, wait.waker_stack, look)
        | {
            "waker_tid": wait.waker_tid or None,
            "in_flight": False,
            "count": wait.count,
            "total_us": wait.total_ns // 1000,
            "max_us": wait.max_ns // 1000,
            "first_mono_us": wait.first_ns // 1000,
            "last_mono_us": wait.last_ns // 1000,
            "stack_id": look.stack(wait.stack),
        }
        | of_kind(wait.kind, wait.group, wait.unread_ns, look)
        for wait in _ended_waits(rec)
    ]
    if _in_flight(rec) and rec.reclaim_ns:
        rows += [same | part for part in _reclaiming(rec, now_ns)]
    elif _in_flight(rec) and rec.off_ns:
        rows += [same | part for part in _going_on(rec, now_ns, look)]
    return rows


def _ended_waits(rec: OpRec) -> Iterator[WaitRec]:
    """Yield the waits of a record; those of before it began as far as it had arrived."""
    since_ns = rec.arrival_ns or rec.begin_ns
    for index, wait in enumerate(rec.waits[: min(rec.nwaits, MAX_WAITS)]):
        if index < rec.nearly and wait.first_ns < since_ns:
            if wait.last_ns <= since_ns:
                continue
            part = (wait.last_ns - since_ns) / (wait.last_ns - wait.first_ns)
            wait.total_ns = int(wait.total_ns * part)
            wait.max_ns = min(wait.max_ns, wait.total_ns)
            wait.first_ns = since_ns
        yield wait


def of_kind(kind: int, group: int, unread_ns: int, look: Lookups) -> Row:
    """Return the columns that say what kind of wait it was, and for or in what."""
    if kind == WAIT_RUNNING:
        return {"kind": WAIT_KINDS[kind], "owner": look.owner(group)}
    return {
        "kind": WAIT_KINDS.get(kind, BLOCKED),
        "fanotify_group": group_name(group),
        "unread_us": unread_ns // 1000 if group else None,
    }


def waker(proc: ProcId, stack: int, look: Lookups) -> Row:
    """Return the waker's columns; null where no process's context woke the thread."""
    known = proc.tgid != 0
    return {
        "waker_pid": proc.tgid if known else None,
        "waker_start_us": proc.start_ns // 1000 if known else None,
        "waker_stack_id": look.stack(stack),
    }


def _going_on(rec: OpRec, now_ns: int, look: Lookups) -> list[Row]:
    """Return the wait that has not ended; split where the thread was woken but has no CPU."""
    woken = BLOCKED if rec.off_kind != 2 and rec.waking_ns else None
    # What it waited for in another CPU's queue has its own row already.
    queued_ns = max(rec.queued_ns, rec.waking_ns or rec.off_ns)
    spans = (
        [(BLOCKED, rec.off_ns, rec.waking_ns), (RUNNABLE, queued_ns, now_ns)]
        if woken
        else [(WAIT_KINDS.get(rec.off_kind, BLOCKED), queued_ns, now_ns)]
    )
    rows = []
    for kind, first_ns, last_ns in spans:
        first, last = first_ns // 1000, max(first_ns, last_ns) // 1000
        rows.append(
            {
                "kind": kind,
                # A blocked span that was ended by its waker is over.
                "in_flight": kind != woken,
                "count": 1,
                "total_us": last - first,
                "max_us": last - first,
                "first_mono_us": first,
                "last_mono_us": last,
                "stack_id": look.stack(rec.off_stack),
                "fanotify_group": group_name(rec.group),
                "unread_us": _unread_us(rec, first_ns, last_ns) if kind == BLOCKED else None,
                **(_woken(rec, look) if kind == woken or rec.flags & OP_AWAITS else {}),
            }
        )
    return rows


def _reclaiming(rec: OpRec, now_ns: int) -> Iterator[Row]:
    """Yield the wait of a thread that frees memory; apart from it, that it could run and does not.

    The kernel's record takes the time in which it could run out of it, see bpf/reclaim.h.
    """
    waited_ns = rec.waits_lost_ns + sum(w.total_ns for w in rec.waits[: min(rec.nwaits, MAX_WAITS)])
    until_ns = rec.queued_ns or now_ns
    yield _still(rec.reclaim_kind, rec.reclaim_ns, until_ns, waited_ns - rec.reclaim_waited_ns)
    if rec.queued_ns:
        yield _still(WAIT_RUNNABLE, rec.queued_ns, now_ns, 0)


def _still(kind: int, first_ns: int, last_ns: int, without_ns: int) -> Row:
    """Return the columns of a wait that goes on; ``without_ns`` of it are other waits."""
    total_us = max(0, last_ns - first_ns - max(0, without_ns)) // 1000
    return {
        "kind": WAIT_KINDS.get(kind, BLOCKED),
        "in_flight": True,
        "count": 1,
        "total_us": total_us,
        "max_us": total_us,
        "first_mono_us": first_ns // 1000,
        "last_mono_us": max(first_ns, last_ns) // 1000,
    }


def _woken(rec: OpRec, look: Lookups) -> Row:
    """Return the columns of who has woken a thread that does not run yet, or has to."""
    by = waker(rec.waker, NO_STACK if rec.flags & OP_AWAITS else rec.waker_stack, look)
    return by | {"waker_tid": rec.waker_tid or None if by["waker_pid"] else None}


def _unread_us(rec: OpRec, first_ns: int, last_ns: int) -> int | None:
    """Return how long nobody had read the event a thread waits for; None without a group."""
    if not rec.group:
        return None
    return max(0, min(rec.read_ns or last_ns, last_ns) - first_ns) // 1000


def _layer(rec: OpRec) -> str:
    if rec.flags & OP_ANSWER:
        return LAYERS[6]
    if rec.flags & OP_KERNEL:
        return LAYERS[5]
    if not rec.active and rec.taken == BETWEEN_REQUESTS:
        return LAYERS[7]
    return LAYERS[1] if rec.side == SIDE_SERVER else LAYERS[3]


def _in_flight(rec: OpRec | RpcRec) -> bool:
    return bool(rec.flags & OP_IN_FLIGHT) or not rec.end_ns


def _nfs_op(rec: OpRec, in_flight: bool, look: Lookups) -> str | None:
    """Return the COMPOUND's operation that runs, of one that has ended the longest."""
    if in_flight and rec.nfs_begin_ns:
        return look.name(rec.nfs_op)
    # A request that was dropped in mid-COMPOUND (seen on 7.2) has no trace event for the
    # end of the operation it was in.
    untold_ns = rec.end_ns - rec.nfs_begin_ns if rec.nfs_begin_ns else 0
    if rec.nfs_op and untold_ns > rec.nfs_longest_ns:
        return look.name(rec.nfs_op)
    return look.name(rec.nfs_longest) if rec.nfs_longest else None


def _row(
    rec: OpRec | RpcRec, in_flight: bool, span_us: tuple[int, int], ts_us: int, look: Lookups
) -> Row:
    """Return the columns that both kinds of record have."""
    begin_us, end_us = span_us
    proc: ProcId = rec.proc
    known = proc.tgid != 0
    place = look.place(rec.dev, proc.tgid, proc.start_ns)
    return {
        "ts": ts_us,
        "op_id": signed(rec.op_id),
        "side": SIDES.get(getattr(rec, "side", 2), SIDES[2]),
        "op": op_name(rec.op, look) or UNKNOWN_OP,
        "xid": rec.xid or None,
        "pid": proc.tgid if known else None,
        "tid": rec.tid or None,
        "pid_start_us": proc.start_ns // 1000 if known else None,
        "comm": (look.comm(proc.tgid, proc.start_ns) if known else None)
        or decoded(rec.comm)
        or None,
        "peer": address(bytes(rec.peer)),
        "mount": place.point,
        "volume": place.volume,
        "in_flight": in_flight,
        "begin_known": not rec.flags & OP_BEGIN_UNKNOWN,
        "begin_mono_us": begin_us,
        "wall_us": end_us - begin_us,
        "status": None if in_flight else rec.status,
    }


def _phases(begin_us: int, end_us: int, *phases: tuple[str, int]) -> Row:
    """Return phase -> length. Each phase ends at its stamp, the one without a stamp at the end.

    Phases after the one without a stamp were not reached: null.
    """
    row: Row = {}
    at = begin_us
    open_ = True
    for name, until_ns in phases:
        if not open_:
            row[name] = None
            continue
        until = min(max(until_ns // 1000, at), end_us) if until_ns else end_us
        row[name] = until - at
        at, open_ = until, bool(until_ns)
    return row
