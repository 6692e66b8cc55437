"""What may be lost while recording, under the names that captures and reports use."""

from __future__ import annotations

from typing import Final

# enum loss of bpf/records.h, in order.
IN_KERNEL: Final = {
    "ring_full": "slow operations for which the ring buffer had no room",
    "latency_full": "operations for whose histogram the map had no room",
    "waits_full": "waits of fast operations for which the map had no room",
    "threads_full": "operations of more threads than the map holds",
    "rpcs_full": "RPCs in flight beyond what the map holds",
    "xprts_full": "transports beyond what the map holds",
    "procs_full": "processes beyond what the map holds",
    "stack": "kernel stacks that could not be kept",
    "wait_slots": "waits beyond the longest eight of an operation",
    "counts_full": "happenings for which the map had no room",
    "read": "fields of kernel memory that could not be read",
    "packets_full": "packets that a process has to decide on, beyond what the map holds",
    "exit": "calls whose end went unseen",
    "uses_full": "uses of disks, journals and memory for which the map had no room",
}
MISSED_EVENT: Final = "missed_event"
MISSED_CALL: Final = "missed_call"
OUTBOX_FULL: Final = "outbox_full"
MEMORY_FULL: Final = "writer_memory_full"
BAD_FRAME: Final = "writer_bad_frame"

MEANINGS: Final = {
    **IN_KERNEL,
    MISSED_EVENT: "events whose BPF program was not run, its CPU having been preempted in it",
    MISSED_CALL: "calls or their ends whose BPF program was not run, for the same reason",
    OUTBOX_FULL: "rows dropped, the writer being late",
    MEMORY_FULL: "rows dropped, the disk being full or stuck",
    BAD_FRAME: "frames that the writer could not read",
}

# After these, an operation that is not in a capture may have been lost.
OF_OPERATIONS: Final = (
    *("ring_full", "threads_full", "rpcs_full", "exit"),
    *(MISSED_EVENT, OUTBOX_FULL, MEMORY_FULL),
)


def explained(name: str, count: int) -> str:
    """Return a loss in words: how often, what, and the name it has in captures."""
    meaning = MEANINGS.get(name)
    return f"{count} {meaning} ({name})" if meaning else f"{name} {count}"
