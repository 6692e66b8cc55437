"""Rows of ``disk_use``: a disk's time that went to a process."""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from tracer.records import DISK_SLOT_SHIFT, DiskKey, LatencyVal
from tracer.rows.operations import Lookups, Row
from tracer.rows.packed import layout, tuples

_DISKS: Final = layout(DiskKey, LatencyVal)
SLOT_NS: Final = 1 << DISK_SLOT_SHIFT
# Who had a disk for less of a slot held nobody up alone: a row for each would be most of a capture.
_LEAST_NS: Final = SLOT_NS // 20


def disk_rows(payload: bytes, ts_us: int, look: Lookups) -> list[Row]:
    """Return the rows of a DISKS frame. Raises BadFrame."""
    rows = []
    small: defaultdict[tuple[int, int], list[tuple[int, int, int]]] = defaultdict(list)
    for slot, start_ns, tgid, _, dev, _, *used in tuples(payload, _DISKS):
        count, busy_ns, longest_ns = used
        if busy_ns < _LEAST_NS:
            small[slot, dev].append((count, busy_ns, longest_ns))
            continue
        look.comm(tgid, start_ns)  # the process gets its row in `processes`
        who = {"pid": tgid, "start_us": start_ns // 1000}
        rows.append(who | _row(slot, dev, (count, busy_ns, longest_ns), ts_us, look))
    for (slot, dev), uses in small.items():
        counts, busy, longest = zip(*uses, strict=True)
        if sum(busy) >= _LEAST_NS:
            together = (sum(counts), sum(busy), max(longest))
            nobody = {"pid": None, "start_us": None}
            rows.append(nobody | _row(slot, dev, together, ts_us, look))
    return rows


def _row(slot: int, dev: int, used: tuple[int, int, int], ts_us: int, look: Lookups) -> Row:
    count, busy_ns, longest_ns = used
    end_ns = (slot + 1) * SLOT_NS
    return {
        "ts": ts_us,
        "disk": look.disk(dev),
        # A request that completed in the slot may have had the disk since long before.
        "begin_mono_us": max(0, end_ns - SLOT_NS - longest_ns) // 1000,
        "end_mono_us": end_ns // 1000,
        "requests": count,
        "busy_us": busy_ns // 1000,
    }
