"""Rows of ``disk_use``, ``journal_use`` and ``memory_use``: what a process had of what."""

from __future__ import annotations

import ctypes
import resource
from collections import defaultdict
from collections.abc import Iterator
from typing import Final

from tracer.records import USE_DISK, USE_JOURNAL, USE_MEMORY, USE_SLOT_SHIFT, LatencyVal, UseKey
from tracer.rows.operations import Lookups, Row
from tracer.rows.packed import layout, tuples

_USES: Final = layout(UseKey, LatencyVal)
SLOT_NS: Final = 1 << USE_SLOT_SHIFT
# Who had a disk for less of a slot held nobody up alone: a row for each would be most of a capture.
_LEAST_NS: Final = SLOT_NS // 20
# Nor is who took less than this part of a slot's memory behind its being short.
_LEAST_OF_MEMORY: Final = 0.05
_PAGE_BYTES: Final = resource.getpagesize()


def disk_rows(payload: bytes, ts_us: int, look: Lookups) -> list[Row]:
    """Return the rows of disks of a USES frame. Raises BadFrame."""
    rows: list[Row] = []
    small: defaultdict[tuple[int, int], list[tuple[int, int, int]]] = defaultdict(list)
    for slot, start_ns, tgid, dev, count, busy_ns, longest_ns in _of_kind(payload, USE_DISK):
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


def journal_rows(payload: bytes, ts_us: int, look: Lookups) -> list[Row]:
    """Return the rows of journals of a USES frame, one for each process. Raises BadFrame."""
    rows: dict[tuple[int, int, int], Row] = {}
    for slot, start_ns, tgid, dev, handles, blocks, _ in _of_kind(payload, USE_JOURNAL):
        begin_us, end_us = slot * SLOT_NS // 1000, (slot + 1) * SLOT_NS // 1000
        row = rows.get((start_ns, tgid, dev))
        if row is None:
            look.comm(tgid, start_ns)  # the process gets its row in `processes`
            row = rows[start_ns, tgid, dev] = {
                "ts": ts_us,
                "device": look.device(dev),
                "pid": tgid,
                "start_us": start_ns // 1000,
                "begin_mono_us": begin_us,
                "end_mono_us": end_us,
                "handles": 0,
                "blocks": 0,
            }
        row["begin_mono_us"] = min(row["begin_mono_us"], begin_us)
        row["end_mono_us"] = max(row["end_mono_us"], end_us)
        row["handles"] += handles
        row["blocks"] += blocks
    return list(rows.values())


def memory_rows(payload: bytes, ts_us: int, look: Lookups) -> list[Row]:
    """Return the rows of memory of a USES frame. Raises BadFrame."""
    slots: defaultdict[int, dict[tuple[int, int], int]] = defaultdict(dict)
    for slot, start_ns, tgid, _, _, pages, _ in _of_kind(payload, USE_MEMORY):
        # What is given back may have been taken in a slot before.
        slots[slot][tgid, start_ns] = ctypes.c_int64(pages).value
    return [row for slot, taken in slots.items() for row in _taken(slot, taken, ts_us, look)]


def _taken(
    slot: int, taken: dict[tuple[int, int], int], ts_us: int, look: Lookups
) -> Iterator[Row]:
    """Yield the rows of one slot; ``taken``: pages by pid and start_ns."""
    least = sum(map(abs, taken.values())) * _LEAST_OF_MEMORY
    together = 0
    times = {"begin_mono_us": slot * SLOT_NS // 1000, "end_mono_us": (slot + 1) * SLOT_NS // 1000}
    for (tgid, start_ns), pages in taken.items():
        if not tgid or abs(pages) < least:
            together += pages
        elif pages:
            look.comm(tgid, start_ns)  # the process gets its row in `processes`
            who = {"ts": ts_us, "pid": tgid, "start_us": start_ns // 1000}
            yield who | times | {"taken_bytes": pages * _PAGE_BYTES}
    if together:
        nobody = {"ts": ts_us, "pid": None, "start_us": None}
        yield nobody | times | {"taken_bytes": together * _PAGE_BYTES}


def _of_kind(payload: bytes, wanted: int) -> Iterator[tuple[int, ...]]:
    """Yield (slot, start_ns, pid, dev, count, sum, longest) of one kind of use."""
    for slot, start_ns, tgid, _, dev, kind, *used in tuples(payload, _USES):
        if kind == wanted:
            yield slot, start_ns, tgid, dev, *used


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
