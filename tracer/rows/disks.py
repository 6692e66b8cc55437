"""Rows of ``disk_use``: a disk's time that went to a process."""

from __future__ import annotations

from typing import Final

from tracer.records import DISK_SLOT_SHIFT, DiskKey, LatencyVal
from tracer.rows.operations import Lookups, Row
from tracer.rows.packed import layout, tuples

_DISKS: Final = layout(DiskKey, LatencyVal)
SLOT_NS: Final = 1 << DISK_SLOT_SHIFT
# Whoever had a disk for less of a slot held nobody up: a row for each would be most of a capture.
_LEAST_NS: Final = SLOT_NS // 20


def disk_rows(payload: bytes, ts_us: int, look: Lookups) -> list[Row]:
    """Return the rows of a DISKS frame. Raises BadFrame."""
    rows = []
    for slot, start_ns, tgid, _, dev, _, count, busy_ns, longest_ns in tuples(payload, _DISKS):
        if busy_ns < _LEAST_NS:
            continue
        look.comm(tgid, start_ns)  # the process gets its row in `processes`
        end_ns = (slot + 1) * SLOT_NS
        rows.append(
            {
                "ts": ts_us,
                "disk": look.disk(dev),
                "pid": tgid,
                "start_us": start_ns // 1000,
                # A request that completed in the slot may have had the disk since long before.
                "begin_mono_us": max(0, end_ns - SLOT_NS - longest_ns) // 1000,
                "end_mono_us": end_ns // 1000,
                "requests": count,
                "busy_us": busy_ns // 1000,
            }
        )
    return rows
