"""Rows that sum up an interval: ``latency`` and the waits of faster operations."""

from __future__ import annotations

import ctypes
from typing import Final

from tracer.records import (
    COUNTS,
    LAYERS,
    SIDE_CLIENT,
    SIDES,
    CountKey,
    LatencyKey,
    LatencyVal,
    WaitKey,
    WaitVal,
)
from tracer.rows.operations import UNKNOWN_OP, Lookups, Row, of_kind, op_name
from tracer.rows.packed import BadFrame, layout, tuples
from tracer.rows.text import address

_LATENCY: Final = layout(LatencyKey, LatencyVal)
_WAITS: Final = layout(WaitKey, WaitVal)
_COUNTS: Final = layout(CountKey, ctypes.c_uint64)
_WITH_STATUS: Final = ("status", "reply_cache", "connect", "conflict")


def latency_rows(payload: bytes, ts_us: int, look: Lookups) -> list[Row]:
    """Return the histogram rows of a LATENCY frame. Raises BadFrame."""
    rows = []
    for values in tuples(payload, _LATENCY):
        op, start_ns, tgid, _, peer, dev, bucket, side, layer, *figures = values
        count, sum_ns, max_ns, rpc_bytes = figures
        rows.append(
            {
                "ts": ts_us,
                "side": SIDES.get(side, SIDES[SIDE_CLIENT]),
                "layer": LAYERS.get(layer, LAYERS[1]),
                "op": op_name(op, look) or UNKNOWN_OP,
                "pid": tgid or None,
                "pid_start_us": start_ns // 1000 if tgid else None,
                "comm": look.comm(tgid, start_ns) if tgid else None,
                "mount": look.place(dev, tgid, start_ns).point,
                "peer": address(peer),
                "bucket": bucket,
                "count": count,
                "sum_us": sum_ns // 1000,
                "max_us": max_ns // 1000,
                "rpc_bytes": rpc_bytes if LAYERS.get(layer) == "rpc" else None,
            }
        )
    return rows


def wait_sum_rows(payload: bytes, now_ns: int, ts_us: int, look: Lookups) -> list[Row]:
    """Return the rows without op_id of a WAITS frame. Raises BadFrame."""
    rows = []
    for values in tuples(payload, _WAITS):
        op, start_ns, tgid, _, group, stack, waker_stack, kind, side = values[:9]
        count, total, longest, unread = values[9:]
        if tgid:
            look.comm(tgid, start_ns)  # the waker gets its row in `processes`
        rows.append(
            {
                "ts": ts_us,
                "side": SIDES.get(side, SIDES[SIDE_CLIENT]),
                "op": op_name(op, look),
                "in_flight": False,
                "count": count,
                "total_us": total // 1000,
                "max_us": longest // 1000,
                "last_mono_us": now_ns // 1000,
                "stack_id": look.stack(stack),
                "waker_pid": tgid or None,
                "waker_start_us": start_ns // 1000 if tgid else None,
                "waker_stack_id": look.stack(waker_stack),
            }
            | of_kind(kind, group, unread, look)
        )
    return rows


def count_rows(payload: bytes, ts_us: int, look: Lookups) -> list[Row]:
    """Return the rows of a COUNTS frame. Raises BadFrame."""
    rows = []
    for op, peer, kind, status, side, _, count in tuples(payload, _COUNTS):
        if kind >= len(COUNTS):
            raise BadFrame(f"no kind of count {kind}")
        rows.append(
            {
                "ts": ts_us,
                "side": SIDES.get(side, SIDES[SIDE_CLIENT]),
                "kind": COUNTS[kind],
                "op": op_name(op, look),
                "status": status if COUNTS[kind] in _WITH_STATUS else None,
                "peer": address(peer),
                "count": count,
            }
        )
    return rows
