"""Processes as the kernel's own lists have them.

Needs no /proc, so it works in the collector, which opens nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tracer.kernel.memory import KernelMemory

MOST_TASKS: Final = 1 << 17
_MOST_FDS: Final = 1 << 16


def walk(memory: KernelMemory) -> Iterator[tuple[int, int]]:
    """Yield (pid, task_struct) of every process."""
    first = memory.u64(memory.current_task(), "task_struct.group_leader")
    if first is None:
        return
    link = memory.offset("task_struct.tasks")
    for task in (first, *memory.list(first + link, link, MOST_TASKS)):
        pid = memory.u32(task, "task_struct.pid")
        if pid:
            yield pid, task


def threads(memory: KernelMemory, leader: int) -> Iterator[int]:
    """Yield the task_struct of each thread of a process, given that of its main thread."""
    signal = memory.u64(leader, "task_struct.signal")
    if signal:
        head = signal + memory.offset("signal_struct.thread_head")
        yield from memory.list(head, memory.offset("task_struct.thread_node"), MOST_TASKS)


def thread(memory: KernelMemory, leader: int, tid: int) -> int | None:
    """Return the task_struct of a thread, given that of its process's main thread."""
    if memory.u32(leader, "task_struct.pid") == tid:
        return leader
    found = threads(memory, leader)
    return next((task for task in found if memory.u32(task, "task_struct.pid") == tid), None)


def start_ns(memory: KernelMemory, leader: int) -> int:
    """Return a process's start in CLOCK_BOOTTIME ns, from its main thread's task."""
    return memory.u64(leader, "task_struct.start_boottime") or 0


def files(memory: KernelMemory, task: int) -> Iterator[int]:
    """Yield the struct file of each descriptor of a process."""
    array, count = _descriptors(memory, task)
    if array:
        yield from memory.pointers(array, count)


def file(memory: KernelMemory, task: int, number: int) -> int | None:
    """Return the struct file of a descriptor of a process."""
    array, count = _descriptors(memory, task)
    return memory.u64(array + 8 * number) or None if array and number < count else None


def _descriptors(memory: KernelMemory, task: int) -> tuple[int, int]:
    """Return where a process's array of struct file * is, and its length; 0 if there is none."""
    table = memory.u64(task, "task_struct.files")
    table = memory.u64(table, "files_struct.fdt") if table else None
    array = memory.u64(table, "fdtable.fd") if table else None
    if not table or not array:
        return 0, 0
    return array, min(memory.u32(table, "fdtable.max_fds") or 0, _MOST_FDS)
